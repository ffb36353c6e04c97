"""Who is let in, and what a page of another site, a guessed path or a flood can do: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tunesmith[serve]'")
pytest.importorskip("prometheus_client", reason="needs the extra: pip install 'tunesmith[serve]'")

from tunesmith.errors import ServeError
from tunesmith.serve.start import Address, open_server

KEY = "a-key-of-more-than-16-characters"
ASKED = {"model": "tuned", "prompt": "A boy", "max_tokens": 2}


@pytest.fixture(scope="module")
def locked(tiny_llama: Path, serving_with: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that wants a key."""
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_text(KEY)
    with serving_with(tiny_llama, key_file=path) as server:
        yield server


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::2]", ""])
def test_another_host_is_refused(served: Any, host: str) -> None:
    answer = served.ask("POST", "/v1/completions", ASKED, host=host)
    assert answer.status == 400
    assert "Host" in answer.json["error"]["message"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_is_refused(served: Any, origin: str) -> None:
    assert served.ask("POST", "/v1/completions", ASKED, origin=origin).status == 403
    assert served.ask("POST", "/playground/pairs", {"prompt": "a"}, origin=origin).status == 403
    assert served.ask("POST", "/v1/completions", ASKED, sec_fetch_site="cross-site").status == 403
    assert served.ask("POST", "/v1/completions", ASKED, origin=f"http://127.0.0.1:{served.port}").status == 200


def test_a_form_of_another_site_says_nothing(served: Any) -> None:
    answer = served.ask("POST", "/v1/completions", b"model=tuned&prompt=a", content_type="text/plain")
    assert answer.status == 400


@pytest.mark.parametrize(
    "path", ["/", "/v1/models", "/v1/completions", "/metrics", "/playground/about", "/static/app.js"]
)
@pytest.mark.parametrize("given", [None, "Bearer wrong-wrong-wrong-wrong", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x"])
def test_without_the_key_nothing_is_told(locked: Any, path: str, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    answer = locked.ask("GET", path, **headers)
    assert answer.status == 401
    assert KEY.encode() not in answer.body
    assert b"tuned" not in answer.body


def test_with_the_key(locked: Any) -> None:
    assert locked.ask("GET", "/health").status == 200
    assert locked.ask("POST", "/v1/completions", ASKED, authorization=f"Bearer {KEY}").status == 200
    assert locked.ask("GET", "/v1/models", authorization=f"bearer {KEY}").status == 200


def test_other_machines_need_a_key(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_API_KEY", raising=False)
    with pytest.raises(ServeError, match="no key is set"):
        open_server(str(tiny_llama), Address("0.0.0.0", 0))


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/errors.py",
        "/static/..\\app.py",
        "/static//etc/passwd",
        "/static/",
        "/static/app.py",
        "/../../etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/tuned%00",
        "/docs",
        "/redoc",
    ],
)
def test_paths_lead_nowhere(served: Any, path: str) -> None:
    answer = served.ask("GET", path)
    assert answer.status == 404
    assert b"root:" not in answer.body
    assert b"import" not in answer.body


def test_a_flood_of_headers(served: Any) -> None:
    many = {f"x_{number}": "a" for number in range(120)}
    assert served.ask("GET", "/v1/models", **many).status == 431
    assert served.ask("GET", "/v1/models", x_long="a" * 17_000).status in (400, 431)
    assert served.ask("GET", "/health").status == 200


def test_what_a_browser_may_do_with_the_page(served: Any) -> None:
    for path in ("/", "/static/app.js", "/static/style.css"):
        answer = served.ask("GET", path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = served.ask("GET", "/").body.decode()
    assert "http://" not in page
    assert "https://" not in page
    assert "style=" not in page
    assert "<script>" not in page
    assert "onclick" not in page


def test_the_api_answers_with_json_alone(served: Any) -> None:
    for answer in (
        served.ask("GET", "/nowhere"),
        served.ask("PUT", "/v1/completions"),
        served.ask("GET", "/v1/completions"),
    ):
        assert answer.headers["content-type"].startswith("application/json")
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}
