"""Slow clients, huge bodies, broken requests, clients that leave, and too many of them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tunesmith[serve]'")
pytest.importorskip("prometheus_client", reason="needs the extra: pip install 'tunesmith[serve]'")

from tunesmith.serve.service import Limits

ASKED = {"model": "tuned", "prompt": "A boy", "max_tokens": 450, "temperature": 0, "seed": 5}


def raw(served: Any, content: bytes, *, read: bool = True) -> tuple[socket.socket, bytes]:
    """Send bytes as they are; what comes back until the other side closes, if that is asked for."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=60)
    connection.sendall(content)
    got = b""
    while read:
        part = connection.recv(65536)
        got += part
        if not part:
            break
    return connection, got


def request(body: bytes, length: int | None = None) -> bytes:
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def works(served: Any) -> None:
    """It still answers, and nothing is left behind."""
    assert served.ask("POST", "/v1/completions", {**ASKED, "max_tokens": 2}).status == 200
    served.wait_until(lambda: served.engine.num_rows == 0 and served.engine.num_waiting == 0)


def test_a_body_of_ten_megabytes_is_not_read(served: Any) -> None:
    connection, answer = raw(served, request(b"{", length=10_000_000))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"at most 1,000,000 bytes" in answer
    connection.close()
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(OSError):  # it closes in the middle
            for _ in range(40):
                connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        with contextlib.suppress(ConnectionError):
            assert b" 413 " in connection.recv(65536)
    works(served)


MALFORMED = [
    b"{",
    b"",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'{"model": "tuned", "prompt": "\\ud800"}',
    b'{"model": "tuned", "seed": NaN}',
    b'{"model": "tuned", "prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"model": "tuned", "seed":' + b"9" * 6000 + b"}",
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_json_is_the_clients_fault(served: Any, body: bytes) -> None:
    answer = served.ask("POST", "/v1/completions", body)
    assert answer.status == 400, answer.body
    assert answer.json["error"]["type"] == "invalid_request_error"
    works(served)


def test_bytes_that_are_no_http(served: Any) -> None:
    for content in (b"\x16\x03\x01\x02\x00", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a" * 100_000):
        connection, _ = raw(served, content, read=False)
        connection.close()
    works(served)


def test_a_client_that_leaves_frees_its_row(served: Any) -> None:
    for stream in (True, False):
        body = json.dumps({**ASKED, "n": 4, "stream": stream, "temperature": 3}).encode()
        connection, _ = raw(served, request(body), read=False)
        served.wait_until(lambda: served.engine.num_rows > 0)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        connection.close()
        served.wait_until(lambda: served.engine.num_rows == 0)
    works(served)


def test_a_slow_reader_holds_no_row(served: Any) -> None:
    connection, _ = raw(served, request(json.dumps({**ASKED, "stream": True}).encode()), read=False)
    works(served)  # the text was written, though nobody reads it
    connection.close()


@pytest.fixture(scope="module")
def narrow(tiny_llama: Path, serving_with: Any) -> Any:
    """A server with little patience."""
    limits = Limits(max_waiting=2, max_open=3, body_seconds=0.3, max_texts=8)
    with serving_with(tiny_llama, limits) as server:
        yield server


def test_a_body_that_does_not_come(narrow: Any) -> None:
    connection, got = raw(narrow, request(b'{"model', length=500))
    assert got.startswith(b"HTTP/1.1 408")
    assert b"did not come within 0.3 seconds" in got
    connection.close()
    works(narrow)


def test_too_much_is_open(narrow: Any) -> None:
    held = [raw(narrow, request(b"{", length=500), read=False)[0] for _ in range(3)]
    narrow.wait_until(lambda: narrow.ask("GET", "/v1/models").status == 503)
    assert narrow.ask("GET", "/health").status == 200
    for connection in held:
        connection.close()
    narrow.wait_until(lambda: narrow.ask("GET", "/v1/models").status == 200)
    works(narrow)


def test_too_many_wait(narrow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = narrow.engine._lanes[0]
    monkeypatch.setattr(lane, "max_rows", 0)  # one text alone is always taken
    answers: list[Any] = []

    def ask() -> None:
        answers.append(narrow.ask("POST", "/v1/completions", {**ASKED, "n": 5, "temperature": 2}))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers[0].status == 429
    assert answers[0].headers["retry-after"] == "1"
    assert answers[0].json["error"]["code"] == "rate_limit_exceeded"
    monkeypatch.undo()
    narrow.wait_until(lambda: narrow.engine.num_waiting + narrow.engine.num_rows == 0)  # those that it did take
    works(narrow)


def test_an_answer_that_takes_too_long(tiny_llama: Path, serving_with: Any) -> None:
    with serving_with(tiny_llama, Limits(answer_seconds=0.0)) as served:
        answer = served.ask("POST", "/v1/completions", ASKED)
        assert answer.status == 408
        assert answer.json["error"]["code"] == "timeout"
        streamed = served.ask("POST", "/v1/completions", {**ASKED, "stream": True})
        assert streamed.status == 200
        assert b"did not come within" in streamed.body
        assert b"[DONE]" not in streamed.body
        served.wait_until(lambda: served.engine.num_rows == 0)


def test_a_model_that_fails_is_told_and_the_next_request_is_answered(served: Any) -> None:
    model = served.engine._lanes[0].model

    def fail(module: Any, args: Any, kwargs: Any) -> None:
        raise RuntimeError("broken inside")

    handle = model.register_forward_pre_hook(fail, with_kwargs=True)
    whole = served.ask("POST", "/v1/completions", ASKED)
    streamed = served.ask("POST", "/v1/completions", {**ASKED, "stream": True})
    handle.remove()
    assert whole.status == 500
    assert "broken inside" in whole.json["error"]["message"]
    assert b'"error"' in streamed.body
    works(served)


def test_metrics_count(served: Any) -> None:
    works(served)
    told = served.ask("GET", "/metrics").body.decode()
    assert 'tunesmith_requests_total{path="/v1/completions",status="200"}' in told
    assert 'tunesmith_tokens_total{kind="written",model="tuned"}' in told
    assert "tunesmith_rows 0.0" in told
    assert "process_resident_memory_bytes" in told
