"""What `watch --web` answers, without a browser."""

from __future__ import annotations

import importlib.util
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.errors import RunError, ServeError
from tunesmith.run.directory import RunDir
from tunesmith.watch.page import policy, run_page, runs_page, seen
from tunesmith.watch.server import REFRESH_SECONDS, Board
from tunesmith.watch.view import View


def fetch(address: str, **headers: str) -> tuple[int, str, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def test_the_page_holds_what_the_screen_shows(tiny_run: RunDir) -> None:
    page = run_page(View.of(tiny_run), 1.5, back=False)
    whole = page.whole()
    for part in (
        "finished",
        "held-out",
        " → ",
        "tokens/s",
        "epoch",
        "peak",
        "cost",
        "at 1.5 an hour",
        "<svg",
        "Log",
    ):
        assert part in whole, part
    assert "What it writes at step" in whole
    assert whole.count("<script>") == 1
    assert 'style="' not in whole
    assert "http://" not in whole
    assert "https://" not in whole


def test_a_browser_gets_only_what_it_lacks(growing: Any) -> None:
    view = View.of(growing.run_dir)
    first = run_page(view, None, back=False)
    known = {seen(part) for part in first.parts.values()}
    growing.evaluate(5.0, "a text")
    view.refresh()
    later = run_page(view, None, back=False)
    changed = later.changed(known)["parts"]
    assert isinstance(changed, dict)
    assert {"loss", "texts", "log"} <= set(changed)
    assert "curves" not in changed
    assert later.changed(known | {digest for digest, _ in changed.values()})["parts"] == {}


def test_hostile_names_are_text(growing: Any) -> None:
    view = View.of(growing.run_dir)
    page = runs_page({"a/b?<x>": view})
    assert "/run/a%2Fb%3F%3Cx%3E" in page.parts["runs"]


def test_many_browsers_read_the_run_once_a_second(growing: Any) -> None:
    time = [0.0]
    board = Board(growing.run_dir.path, None, lambda: time[0])
    growing.steps(3)
    page = board.page("/")
    assert page is not None
    assert "0/100" in page.parts["head"]
    time[0] += REFRESH_SECONDS
    page = board.page("/")
    assert page is not None
    assert "3/100" in page.parts["head"]


def test_a_run_that_comes_later_is_found(growing: Any, copied_run: RunDir) -> None:
    time = [0.0]
    folder = growing.run_dir.path.parent
    board = Board(folder, None, lambda: time[0])
    before = board.views["growing"]
    copied_run.path.rename(folder / "tiny")
    time[0] += 60
    board.refresh()
    assert set(board.views) == {"growing", "tiny"}
    assert board.views["growing"] is before, "what was read is not read again"
    assert board.page("/run/tiny") is not None
    assert board.page("/run/none") is None
    with pytest.raises(RunError, match="no such folder"):
        Board(folder / "empty", None)


def test_the_server_answers_and_refuses(growing: Any, serve_page: Callable[..., str]) -> None:
    address = serve_page(growing.run_dir.path)
    assert address.startswith("http://127.0.0.1:")
    status, body, headers = fetch(f"{address}/")
    assert (status, "growing" in body) == (200, True)
    assert headers["content-security-policy"] == f"{policy()}; frame-ancestors 'none'"
    told = json.loads(fetch(f"{address}/live/")[1])
    assert (told["title"], told["alive"]) == ("growing: running 0%", True)
    assert fetch(f"{address}/live/run/other")[0] == 404
    assert fetch(f"{address}/../../etc/passwd")[0] == 404
    assert fetch(f"{address}/", Host="evil.example")[0] == 400
    assert growing.run_dir.path.exists()


def test_a_package_that_is_missing_is_named_with_its_extra(tiny_run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["watch", str(tiny_run.path), "--web"])
    assert str(done.exception) == "watch --web: uvicorn is not installed. Run: pip install 'tunesmith[serve]'"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--host", "0.0.0.0"], "no key is set"),
        (["--host", "192.0.2.1", "--api-key-file", "KEY"], "cannot listen there"),
        (["--api-key-file", "none"], "the key cannot be read"),
    ],
)
def test_what_cannot_be_served_is_told(
    options: list[str], told: str, tiny_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    monkeypatch.delenv("TUNESMITH_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("KEY").write_text("0123456789abcdef")
    done = CliRunner().invoke(app, ["watch", str(tiny_run.path), "--web", *options])
    assert isinstance(done.exception, ServeError)
    assert told in str(done.exception)
    assert done.exception.exit_code == 2
