"""Files that lie elsewhere: s3://, gs://, hf://, https://. Each is copied into the cache and read from there.

A copy is found again by its address and the mark of its content that the other side gives (ETag, time of change); where
none is given, the file is fetched each time. fsspec is imported only here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tunesmith.cache import CACHE_ELSEWHERE, cache_dir, cache_lock
from tunesmith.disk import NO_ROOM, disk_errors
from tunesmith.errors import DataError, Stopped
from tunesmith.redact import first_line

EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs"}
"""Schemes whose package comes with an extra of tunesmith."""
SCHEMES = ("s3", "gs", "gcs", "hf", "https", "http", "memory")
KEEP_SECONDS = 7 * 86400.0
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_MARKS = ("ETag", "etag", "Content-MD5", "md5Hash", "xet_hash", "blob_id", "Last-Modified", "LastModified", "created")
_CONNECT_SECONDS, _SILENT_SECONDS = 15, 60
_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE; for a public bucket FSSPEC_S3_ANON=true",
    "gs": "Run `gcloud auth application-default login`; for a public bucket set FSSPEC_GS_TOKEN=anon",
    "gcs": "Run `gcloud auth application-default login`; for a public bucket set FSSPEC_GCS_TOKEN=anon",
    "hf": "Log in with `hf auth login`, and accept the terms on the page of a gated data set",
}
_MISSING = {"RepositoryNotFoundError", "EntryNotFoundError", "RevisionNotFoundError", "NoSuchBucket", "NoSuchKey"}
_FORBIDDEN = {
    "PermissionError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "RefreshError",
}
_SILENT = {"ConnectionError", "TimeoutError", "ClientConnectionError", "TransportError", "EndpointConnectionError"}
"""Names of exceptions of a dozen clients, none of which is imported for it."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copy:
    """The local copy of a file and the name that messages give it: its address, without what is secret in it."""

    path: Path
    name: str


@dataclass(frozen=True)
class _Found:
    """A file on the other side. copy: where its copy lies, or is to lie."""

    name: str
    place: str
    size: int | None
    copy: Path


def is_remote(path: str) -> bool:
    """Whether `path` is an address such as s3://bucket/a.csv."""
    return _SCHEME.match(path) is not None


def fetch(path: str, is_data: Callable[[PurePosixPath], bool]) -> list[Copy]:
    """Copies of the file, the folder or the glob at `path`, sorted by name. is_data: whether a folder's file is wanted.

    Raises DataError when the package for it is missing, nothing is there, or it may not or cannot be read.
    """
    scheme = urlsplit(path).scheme.lower()
    if scheme not in SCHEMES:
        raise DataError(f"{path}: {scheme}:// is not known. Expected s3://, gs://, hf://, https:// or a local path.")
    folder = cache_dir() / "remote"
    with disk_errors(folder, CACHE_ELSEWHERE):
        folder.mkdir(mode=0o700, exist_ok=True)
        _forget_old(folder)
    with _explained(path, scheme):
        system, place = _connect(path, scheme)
        found = [_file(name, place, info, folder) for name, place, info in _find(system, place, path, is_data)]
    missing = [file for file in found if not file.copy.is_file()]
    if missing:
        size = f"{sum(file.size or 0 for file in missing) / 1e6:,.1f} MB"
        _logger.warning(
            "fetching %d of %d files of %s (%s) into the cache", len(missing), len(found), _shown(path), size
        )
    return [Copy(_fetched(system, file, scheme), file.name) for file in found]


def _connect(path: str, scheme: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        wait = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        options["client_kwargs"] = {"timeout": wait, "trust_env": True}
    system, place = url_to_fs(path, **options)
    return system, place


def _find(
    system: Any, place: str, path: str, is_data: Callable[[PurePosixPath], bool]
) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, place and description of every file that `path` means."""
    if path.lower().startswith("http"):  # a ? belongs to the address, and a page of links is no folder
        return [(_shown(path), place, system.info(place))]
    if any(sign in place for sign in "*?["):
        infos = {name: info for name, info in system.glob(place, detail=True).items() if info["type"] == "file"}
        if not infos:
            raise DataError(f"{path}: no file matches. Check the pattern and the folder it starts in.")
    elif (info := system.info(place))["type"] == "directory":
        below, root = system.find(place, detail=True), place.rstrip("/")
        infos = {name: info for name, info in below.items() if is_data(PurePosixPath(name).relative_to(root))}
        if not infos:
            others = f"{len(below)} of other kinds" if below else "it is empty"
            raise DataError(f"{path}: is a folder without a file that can be read ({others}).")
    else:
        infos = {place: info}
    return [(system.unstrip_protocol(name), name, infos[name]) for name in sorted(infos)]


def _file(name: str, place: str, info: dict[str, Any], folder: Path) -> _Found:
    size = info.get("size")
    marks = {key: str(info[key]) for key in _MARKS if info.get(key) is not None}
    if not marks:
        marks["fetched"] = str(time.time_ns())  # nothing says whether it has changed
    text = json.dumps([name, place, size, marks], sort_keys=True)
    copy = folder / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return _Found(name, place, size if isinstance(size, int) else None, copy)


def _fetched(system: Any, file: _Found, scheme: str) -> Path:
    """Where the file's copy lies. Of several processes that want it one fetches it, and the others wait."""
    if file.copy.is_file():
        os.utime(file.copy)
        return file.copy
    temporary = file.copy.with_name(f".{file.copy.name}.{os.getpid()}.tmp")
    with cache_lock(cache_dir() / "remote-locks" / file.copy.name, signs=lambda: _num_fetched(file.copy)):
        if file.copy.is_file():
            return file.copy
        try:
            with disk_errors(file.copy, CACHE_ELSEWHERE), _explained(file.name, scheme):
                system.get_file(file.place, str(temporary))
                size = temporary.stat().st_size
                if file.size is not None and file.size > size:
                    raise ConnectionError(f"{size:,} of {file.size:,} bytes came")
                temporary.chmod(0o600)
                return temporary.replace(file.copy)
        finally:
            temporary.unlink(missing_ok=True)


def _num_fetched(copy: Path) -> int:
    """Bytes that have come of it so far."""
    sizes = 0
    for part in copy.parent.glob(f".{copy.name}.*.tmp"):
        with suppress(OSError):  # it is whole meanwhile
            sizes += part.stat().st_size
    return sizes


def _forget_old(folder: Path) -> None:
    """Remove the copies that no run asked for in a week."""
    now = time.time()
    for copy in folder.iterdir():
        with suppress(FileNotFoundError):  # another process forgets too
            if now - copy.stat().st_mtime > KEEP_SECONDS:
                copy.unlink()


def _shown(path: str) -> str:
    """An address without a user, a password and a query, any of which may be a key."""
    parts = urlsplit(path)
    if parts.scheme not in ("http", "https"):
        return path
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


@contextmanager
def _explained(path: str, scheme: str) -> Iterator[None]:
    """Turn what fsspec and the clients below it raise into one DataError. Their kinds of exception number dozens."""
    shown = _shown(path)
    try:
        yield
    except (DataError, Stopped):
        raise
    except ImportError as error:
        how = f"'tunesmith[{EXTRAS[scheme]}]'" if scheme in EXTRAS else "--upgrade tunesmith"
        raise DataError(
            f"{shown}: {scheme}:// needs a package that is not installed ({first_line(error)}). Run: pip install {how}"
        ) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise  # of the cache
        raise DataError(f"{shown}: {_reason(error, scheme)}") from None


def _reason(error: BaseException, scheme: str) -> str:
    chain = [error]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None and deeper not in chain:
        chain.append(deeper)
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    status = next((number for link in chain if (number := _status(link)) is not None), None)
    why = first_line(chain[-1]).rstrip(".")
    login = _CREDENTIALS.get(scheme, "Give an address that may be read")
    if kinds & _MISSING or status in (404, 410):
        return f"there is nothing of this name, or it may not be seen. Check the address. {login}."
    if kinds & _FORBIDDEN or status in (401, 403):
        return f"it may not be read ({why}). {login}."
    if "FileNotFoundError" in kinds and not kinds & _SILENT and status is None:
        return "there is nothing of this name. Check the address."
    return (
        f"cannot be fetched ({why}). Look at the network and the proxy; or download it elsewhere and set data.path to "
        "the local file."
    )


def _status(error: BaseException) -> int | None:
    """The HTTP status that an exception of any client carries."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        answer = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None)  # aiohttp
    for number in (getattr(answer, "status_code", answer), getattr(error, "code", None) if status is None else status):
        if isinstance(number, int) or (isinstance(number, str) and number.isdigit()):
            return int(number)
    return None
