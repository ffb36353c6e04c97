"""The guard before every server: who is let in, what is refused, and what an answer says."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tunesmith.errors import ServeError
from tunesmith.web import (
    KEY_VARIABLE,
    MAX_HEADERS,
    App,
    Guard,
    Message,
    Receive,
    Rules,
    Send,
    address_of,
    content_policy,
    listen,
    read_key,
)

KEY = "a-key-of-more-than-16"
HOME = (("host", "127.0.0.1:8000"),)


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with what it was sent."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"echo " + body})


def ask(
    app: App,
    method: str = "GET",
    path: str = "/",
    headers: tuple[tuple[str, str], ...] = HOME,
    parts: tuple[bytes, ...] = (b"",),
) -> Answer:
    """One request, its body in `parts`."""
    answer, left = Answer(), list(parts)
    path, _, query = path.partition("?")

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert answer.status == 0, "answered twice"
            answer.status = message["status"]
            answer.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
        else:
            answer.body += message.get("body", b"")

    scope: Message = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return answer


def loopback(**more: object) -> Guard:
    return Guard(echo, Rules.of("127.0.0.1", None, **more))


# ---- host: DNS rebinding ----


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_names_of_this_machine_are_let_in(host: str) -> None:
    assert ask(loopback(), headers=(("host", host),)).body == b"echo "


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "", "127.0.0.1@evil.example", "a b"],
)
def test_a_foreign_name_is_refused(host: str) -> None:
    answer = ask(loopback(), headers=(("host", host),))
    assert answer.status == 400
    assert b"echo" not in answer.body


@pytest.mark.parametrize("headers", [(), (("host", "localhost"), ("host", "evil.example"))])
def test_no_host_or_two_of_them_are_refused(headers: tuple[tuple[str, str], ...]) -> None:
    assert ask(loopback(), headers=headers).status == 400


def test_on_every_interface_any_address_is_a_name_and_no_foreign_name_is() -> None:
    rules = Rules.of("0.0.0.0", KEY)
    assert rules.names("192.168.1.7:8000")
    assert rules.names("[fe80::1]:8000")
    assert rules.names(socket.gethostname())
    assert not rules.names("evil.example")
    assert not Rules.of("192.168.1.7", KEY).names("192.168.1.8")


# ---- origin: forms and scripts of other sites ----


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "header", [("origin", "http://evil.example"), ("origin", "null"), ("origin", "http://127.0.0.1:9"),
               ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")],
)  # fmt: skip
def test_a_page_of_another_origin_changes_nothing(method: str, header: tuple[str, str]) -> None:
    assert ask(loopback(), method, headers=(*HOME, header)).status == 403


@pytest.mark.parametrize("more", [(), (("origin", "http://127.0.0.1:8000"),), (("sec-fetch-site", "same-origin"),)])
def test_the_own_page_and_programs_may(more: tuple[tuple[str, str], ...]) -> None:
    answer = ask(loopback(), "POST", headers=(*HOME, *more), parts=(b"a", b"b"))
    assert (answer.status, answer.body) == (200, b"echo ab")


# ---- key ----


def test_a_server_that_others_reach_needs_a_key() -> None:
    for host in ("0.0.0.0", "192.168.1.7", "::", "box.example"):
        with pytest.raises(ServeError, match="--api-key-file"):
            Rules.of(host, None)
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert Rules.of(host, None).key is None


@pytest.mark.parametrize("given", [None, "Bearer ", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer \u00e9"])
def test_without_the_key_nothing_is_told(given: str | None) -> None:
    guard = Guard(echo, Rules.of("0.0.0.0", KEY, open_paths=frozenset({"/health"})))
    headers = HOME if given is None else (*HOME, ("authorization", given))
    answer = ask(guard, headers=headers)
    assert answer.status == 401
    assert answer.header("www-authenticate") == "Bearer"
    assert KEY.encode() not in answer.body
    assert ask(guard, path="/health", headers=headers).status == 200


def test_with_the_key_a_program_is_let_in() -> None:
    guard = Guard(echo, Rules.of("0.0.0.0", KEY))
    assert ask(guard, "POST", headers=(*HOME, ("authorization", f"bearer {KEY}"))).status == 200


def test_a_ticket_opens_once_and_leaves_the_address() -> None:
    guard = Guard(echo, Rules.of("0.0.0.0", KEY))
    address = f"/?a=1&ticket={guard.ticket()}"
    first = ask(guard, path=address)
    assert (first.status, first.header("location")) == (303, "/?a=1")
    cookie = first.header("set-cookie")
    assert cookie is not None
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict")
    assert ask(guard, headers=(*HOME, ("cookie", "b=2; " + cookie.split(";")[0]))).status == 200
    again = ask(guard, path=address)
    assert (again.status, again.header("set-cookie")) == (303, None)
    name = cookie.partition("=")[0]
    assert ask(guard, headers=(*HOME, ("cookie", f"{name}=guess"))).status == 401


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "/a\r\nset-cookie: x=1"])
def test_a_ticket_leads_nowhere_else(path: str) -> None:
    guard = Guard(echo, Rules.of("0.0.0.0", KEY))
    place = ask(guard, path=f"{path}?ticket={guard.ticket()}").header("location")
    assert place is not None
    assert place.startswith("/")
    assert not place.startswith(("//", "/\\"))
    assert "\r" not in place
    assert "\n" not in place


def test_a_browser_is_asked_for_the_key() -> None:
    guard = Guard(echo, Rules.of("0.0.0.0", KEY))
    page = ask(guard, headers=(*HOME, ("accept", "text/html,*/*")))
    assert page.status == 401
    assert b'type="password"' in page.body
    assert "form-action 'self'" in (page.header("content-security-policy") or "")
    assert page.header("referrer-policy") == "same-origin", "with none, browsers send Origin: null"
    wrong = ask(guard, "POST", "/sign-in", parts=(b"key=wrong",))
    assert (wrong.status, wrong.header("set-cookie")) == (401, None)
    right = ask(guard, "POST", "/sign-in", parts=(f"key={KEY}".encode(),))
    assert right.status == 303
    assert right.header("set-cookie")
    foreign = ask(guard, "POST", "/sign-in", (*HOME, ("origin", "http://evil.example")), (f"key={KEY}".encode(),))
    assert foreign.status == 403


@pytest.mark.parametrize("key", ["short", "with spaces in it, long", "\u00e9" * 20, "x" * 10 + "\n" + "y" * 10])
def test_a_key_that_is_not_fit_is_refused(key: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8")
    with pytest.raises(ServeError, match="not fit as a key") as told:
        read_key(file)
    assert key not in str(told.value)


def test_a_key_comes_from_a_file_else_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_key(None) is None
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert read_key(None) == KEY
    (tmp_path / "key").write_text("another-key-of-a-file\n")
    assert read_key(tmp_path / "key") == "another-key-of-a-file"
    with pytest.raises(ServeError, match="cannot be read"):
        read_key(tmp_path / "none")


# ---- limits ----


@pytest.mark.parametrize("more", [(("content-length", "11"),), ()])
def test_a_body_beyond_the_limit_is_refused(more: tuple[tuple[str, str], ...]) -> None:
    """Told or not: a body in parts is counted as it comes."""
    guard = loopback(max_body_bytes=10)
    answer = ask(guard, "POST", headers=(*HOME, *more), parts=(b"123456", b"78901", b"2"))
    assert answer.status == 413
    assert ask(guard, "POST", parts=(b"12345", b"67890")).status == 200


def test_an_app_that_makes_something_of_a_cut_body_is_not_heard() -> None:
    async def lenient(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await echo(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"fine"})

    answer = ask(Guard(lenient, Rules.of("localhost", None, max_body_bytes=4)), "POST", parts=(b"12345",))
    assert (answer.status, b"fine" in answer.body) == (413, False)


@pytest.mark.parametrize(
    "headers", [tuple((f"x-{n}", "1") for n in range(MAX_HEADERS + 1)), (("x", "y" * 20_000),)], ids=["many", "long"]
)
def test_too_many_headers_are_refused(headers: tuple[tuple[str, str], ...]) -> None:
    assert ask(loopback(), headers=(*HOME, *headers)).status == 431


@pytest.mark.parametrize("length", ["-1", "1e3", "x"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    assert ask(loopback(), "POST", headers=(*HOME, ("content-length", length))).status == 400


def test_a_web_socket_is_closed() -> None:
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    asyncio.run(loopback()({"type": "websocket", "headers": []}, receive, send))
    assert [message["type"] for message in said] == ["websocket.close"]


# ---- answers ----


def test_every_answer_keeps_the_browser_narrow() -> None:
    for answer in (ask(loopback()), ask(loopback(), headers=())):
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("x-frame-options") == "DENY"
        assert answer.header("referrer-policy") == "no-referrer"
        assert answer.header("cache-control") == "no-store"
        policy = answer.header("content-security-policy") or ""
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy


def test_a_page_keeps_its_own_policy_and_stands_in_no_frame() -> None:
    async def page(scope: Message, receive: Receive, send: Send) -> None:
        policy = content_policy("p{}", "let a").encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Security-Policy", policy)]})
        await send({"type": "http.response.body", "body": b""})

    policy = ask(Guard(page, Rules.of("localhost", None))).header("content-security-policy")
    assert policy is not None
    assert "script-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert policy.endswith("; frame-ancestors 'none'")


def test_an_error_tells_nothing_of_the_inside() -> None:
    async def broken(scope: Message, receive: Receive, send: Send) -> None:
        raise RuntimeError("/home/anna/secret")

    seen: list[Exception] = []
    answer = ask(Guard(broken, Rules.of("localhost", None), seen.append))
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert json.loads(answer.body)["error"]["type"] == "server_error"
    assert [str(error) for error in seen] == ["/home/anna/secret"]


# ---- a real server ----

SERVER = """
import sys
sys.path.insert(0, {tests!r})
from test_web import echo
from tunesmith.web import Guard, Rules, address_of, listen, run_server
listener = listen("127.0.0.1", 0)
run_server(
    Guard(echo, Rules.of("127.0.0.1", None, max_body_bytes=1000)), listener,
    lambda: print(address_of(listener, "127.0.0.1"), flush=True),
)
"""


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """Its address, printed when it answers."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    command = [sys.executable, "-c", SERVER.format(tests=str(Path(__file__).parent))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            host, _, port = process.stdout.readline().strip().removeprefix("http://").partition(":")
            yield host, int(port)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def test_a_real_server_answers_as_soon_as_it_says_so(server: tuple[str, int]) -> None:
    with contextlib.closing(http.client.HTTPConnection(*server, timeout=20)) as connection:
        connection.request("POST", "/", b"hello")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"echo hello")
        assert answer.getheader("server") is None
        connection.request("POST", "/", b"x" * 1001)
        assert connection.getresponse().status == 413
    with contextlib.closing(http.client.HTTPConnection(*server, timeout=20)) as connection:
        connection.request("GET", "/", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 400
    with contextlib.closing(http.client.HTTPConnection(*server, timeout=20)) as connection:
        connection.request("POST", "/", (b"x" * 600 for _ in range(2)), encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        assert connection.getresponse().status == 413


def test_a_taken_port_and_a_foreign_address_are_told() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address_of(taken, "127.0.0.1") == f"http://127.0.0.1:{port}"
        with pytest.raises(ServeError, match=f"127.0.0.1:{port}: cannot listen there"):
            listen("127.0.0.1", port)
    with pytest.raises(ServeError, match="cannot listen there"):
        listen("192.0.2.1", 0)
