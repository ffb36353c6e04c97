"""Addresses: files of another system are found, copied once, and what goes wrong is one message."""

from __future__ import annotations

import contextlib
import errno
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data import Data
from tunesmith.data.read import remote as module
from tunesmith.data.read.inputs import find_inputs
from tunesmith.errors import DataError, Stopped
from tunesmith.recipe import DataSection

SECTION = DataSection(path="unused", text="text")
CSV = b"text\n" + b"".join(b"row %d of it\n" % i for i in range(5))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tunesmith" / "remote"


def names(path: str) -> list[str]:
    return [found.name for found in find_inputs(path, SECTION)]


def test_a_file_is_read_as_if_it_were_here(bucket: Any, prepared: Callable[..., Data], tmp_path: Path) -> None:
    bucket.pipe("/bucket/a.csv", CSV)
    (tmp_path / "a.csv").write_bytes(CSV)
    (there,), (here,) = (find_inputs(path, SECTION) for path in ("memory://bucket/a.csv", str(tmp_path / "a.csv")))
    assert there.key == here.key
    assert there.name == "memory:///bucket/a.csv"
    data = prepared("memory://bucket/a.csv")
    assert len(data.train) + len(data.eval) == 5


def test_folders_and_globs(bucket: Any) -> None:
    for name in ("a.csv", "b.csv.gz", "deep/c.jsonl", "README.md", ".hidden.csv", "d.png", "_x/e.csv"):
        bucket.pipe(f"/bucket/{name}", CSV)
    below = "memory:///bucket/"
    assert names("memory://bucket") == [f"{below}a.csv", f"{below}b.csv.gz", f"{below}deep/c.jsonl"]
    assert names("memory://bucket/*.csv*") == [f"{below}.hidden.csv", f"{below}a.csv", f"{below}b.csv.gz"]
    assert names("memory://bucket/**/*.jsonl") == [f"{below}deep/c.jsonl"]


def test_an_archive_elsewhere(bucket: Any, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.csv", CSV)
        archive.writestr("y.csv", CSV)
    bucket.pipe("/bucket/a.zip", (tmp_path / "a.zip").read_bytes())
    assert names("memory://bucket/a.zip") == ["memory:///bucket/a.zip/x.csv", "memory:///bucket/a.zip/y.csv"]


def test_a_file_is_copied_once_and_again_when_it_changed(bucket: Any, cache: Path) -> None:
    bucket.pipe("/bucket/a.csv", CSV)
    (first,) = find_inputs("memory://bucket/a.csv", SECTION)
    (copy,) = cache.iterdir()
    assert copy.stat().st_mode & 0o777 == 0o600
    copy.write_bytes(CSV + b"mine\n")
    (again,) = find_inputs("memory://bucket/a.csv", SECTION)
    assert again.key != first.key  # the copy was read, not the object
    bucket.pipe("/bucket/a.csv", CSV + b"more\n")
    (changed,) = find_inputs("memory://bucket/a.csv", SECTION)
    assert changed.key not in (first.key, again.key)
    assert len(list(cache.iterdir())) == 2


def test_what_another_process_fetched_meanwhile_is_not_fetched_again(
    bucket: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe("/bucket/a.csv", CSV)

    @contextlib.contextmanager
    def waited(path: Path, **options: Any) -> Iterator[None]:
        (cache / path.name).write_bytes(CSV)
        yield

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("fetched again")

    monkeypatch.setattr("tunesmith.data.read.remote.cache_lock", waited)
    monkeypatch.setattr(type(bucket), "get_file", refuse)
    assert names("memory://bucket/a.csv") == ["memory:///bucket/a.csv"]


def test_copies_that_nobody_asked_for_in_a_week_go(bucket: Any, cache: Path) -> None:
    bucket.pipe("/bucket/a.csv", CSV)
    find_inputs("memory://bucket/a.csv", SECTION)
    (copy,) = cache.iterdir()
    os.utime(copy, (0, 0))
    bucket.pipe("/bucket/b.csv", CSV)
    find_inputs("memory://bucket/b.csv", SECTION)
    assert not copy.exists()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("memory://bucket/none.csv", "there is nothing of this name"),
        ("memory://bucket/*.parquet", "no file matches"),
        ("memory://bucket", r"a folder without a file that can be read \(1 of other kinds\)"),
        ("ftp://host/a.csv", r"ftp:// is not known. Expected s3://"),
        ("s3:/bucket/a.csv", "no such file"),
    ],
)
def test_what_is_not_there_is_said(bucket: Any, path: str, says: str) -> None:
    bucket.pipe("/bucket/a.png", b"x")
    with pytest.raises(DataError, match=says):
        find_inputs(path, SECTION)


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs"), ("gcs", "gs")])
def test_a_missing_package_is_named_with_its_extra(scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(DataError, match=rf"{scheme}:// needs a package.*pip install 'tunesmith\[{extra}\]'"):
        find_inputs(f"{scheme}://bucket/a.csv", SECTION)


class NoCredentialsError(Exception):
    """As botocore calls it."""


class ClientError(Exception):
    """As botocore raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"An error occurred ({status})")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NoCredentialsError("Unable to locate credentials"), r"may not be read \(Unable.*AWS_PROFILE.*ANON=true"),
        (ClientError(403), "may not be read"),
        (ClientError(404), "there is nothing of this name, or it may not be seen"),
        (PermissionError(errno.EACCES, "Access Denied"), "may not be read"),
        (FileNotFoundError("bucket/a.csv"), "there is nothing of this name"),
        (TimeoutError("timed out"), r"cannot be fetched \(timed out\)\. Look at the network"),
        (ClientError(503), r"cannot be fetched \(An error occurred"),
    ],
)
def test_an_error_of_a_client_is_one_message(error: Exception, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        def info(self, place: str) -> None:
            raise error

    monkeypatch.setattr(module, "_connect", lambda path, scheme: (Store(), "bucket/a.csv"))
    with pytest.raises(DataError, match=says) as raised:
        find_inputs("s3://bucket/a.csv", SECTION)
    assert str(raised.value).startswith("s3://bucket/a.csv: ")


def test_a_signal_while_files_are_fetched_is_no_error_of_theirs(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any, there: str, here: str) -> None:
        raise Stopped("SIGTERM", "tunesmith train")

    bucket.pipe("/bucket/a.csv", CSV)
    monkeypatch.setattr(type(bucket), "get_file", interrupted)
    with pytest.raises(Stopped):
        find_inputs("memory://bucket/a.csv", SECTION)


def test_an_object_that_ends_early_is_no_copy(bucket: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe("/bucket/a.csv", CSV)
    monkeypatch.setattr(type(bucket), "get_file", lambda self, there, here: Path(here).write_bytes(CSV[:9]))
    with pytest.raises(DataError, match=r"cannot be fetched \(9 of 65 bytes came\)"):
        find_inputs("memory://bucket/a.csv", SECTION)
    assert list(cache.iterdir()) == []


@pytest.fixture
def web() -> Iterator[Callable[..., str]]:
    """A web server of this machine: paths to status and content."""
    servers = []

    def serve(pages: dict[str, tuple[int, bytes]]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(with_content=False)

            def do_GET(self) -> None:
                self._answer(with_content=True)

            def _answer(self, *, with_content: bool) -> None:
                status, content = pages.get(self.path, (404, b""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if with_content:
                    self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_proxy")
def test_a_web_address(web: Callable[..., str]) -> None:
    base = web({"/a.csv?key=abc": (200, CSV), "/no.csv": (403, b"no"), "/broken.csv": (500, b"")})
    (found,) = find_inputs(f"{base}/a.csv?key=abc", SECTION)
    assert found.name == f"{base}/a.csv"  # a query may be a key
    assert found.open().columns == ("text",)
    for name, says in {"none": "nothing of this name", "no": "may not be read", "broken": "cannot be fetched"}.items():
        with pytest.raises(DataError, match=rf"/{name}\.csv: .*{says}"):
            find_inputs(f"{base}/{name}.csv", SECTION)


@pytest.mark.usefixtures("no_proxy")
def test_a_server_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/a\.csv: cannot be fetched \(.*\)\. Look at the network"):
        find_inputs("http://user:secret@127.0.0.1:9/a.csv?sig=abc", SECTION)
