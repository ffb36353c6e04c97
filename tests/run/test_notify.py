"""Who is told of a run's end, and that nothing of it can end the run."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import Stopped, TrainingError
from tunesmith.recipe import NotifySection
from tunesmith.run.artefacts import Event, Result
from tunesmith.run.directory import RunDir
from tunesmith.run.notify import notifying

SECRET = "sk-" + "a1b2" * 8


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook on this machine, and what it was sent."""
    heard: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path.endswith("broken") else 200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", heard
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "shows")


def test_the_end_is_told_with_its_scores(
    hook: tuple[str, list[dict[str, Any]]], run_dir: RunDir, new_result: Callable[..., Result]
) -> None:
    url, heard = hook
    with notifying(NotifySection(url=url), run_dir, pytest.fail):
        run_dir.write(new_result(eval_loss=3.25, eval_loss_base=4.5))
    (message,) = heard
    assert message["text"] == message["content"] == "shows: finished, step 0 of 0, held-out loss 4.500 -> 3.250"
    assert (message["state"], message["eval_loss"], message["run"]) == ("finished", 3.25, "shows")


@pytest.mark.parametrize(
    ("error", "state"), [(Stopped("SIGTERM", "x"), "stopped"), (TrainingError(f"loss is nan {SECRET}"), "failed")]
)
def test_a_stop_and_a_failure_are_told_and_go_on(
    hook: tuple[str, list[dict[str, Any]]], run_dir: RunDir, error: Exception, state: str
) -> None:
    url, heard = hook
    with pytest.raises(type(error)), notifying(NotifySection(url=url), run_dir, pytest.fail):
        raise error
    assert heard[0]["state"] == state
    assert SECRET not in json.dumps(heard)


def test_a_secret_address_stands_in_the_environment(
    hook: tuple[str, list[dict[str, Any]]], run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, heard = hook
    monkeypatch.setenv("MY_HOOK", url)
    for asked in ("$MY_HOOK", "${MY_HOOK}"):
        with notifying(NotifySection(url=asked), run_dir, pytest.fail):
            pass
    assert len(heard) == 2


def test_a_command_gets_the_message(run_dir: RunDir, tmp_path: Path) -> None:
    code = "import sys, os; open('told', 'w').write(os.environ['TUNESMITH_MESSAGE'] + '|' + sys.stdin.read())"
    script = tmp_path / "tell.py"
    script.write_text(f"import os; os.chdir({str(tmp_path)!r})\n{code}")
    with notifying(NotifySection(command=f"{sys.executable} {script}"), run_dir, pytest.fail):
        pass
    line, _, message = (tmp_path / "told").read_text().partition("|")
    assert line == json.loads(message)["text"] == "shows: finished, step 0 of 0"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"url": "HOOK/broken"}, "the address was not reached"),
        ({"url": "http://127.0.0.1:9/nobody"}, "the address was not reached"),
        ({"url": "$NOT_SET_ANYWHERE"}, "notify.url is no web address"),
        ({"url": "file:///etc/passwd"}, "notify.url is no web address"),
        ({"command": "no-such-command-anywhere"}, "No such file"),
        ({"command": f"{sys.executable} -c 'raise SystemExit(3)'"}, "ended with 3"),
        ({"command": "'unbalanced"}, "No closing quotation"),
    ],
)
def test_what_fails_is_said_and_ends_nothing(
    hook: tuple[str, list[dict[str, Any]]], run_dir: RunDir, asked: dict[str, str], told: str
) -> None:
    said: list[str] = []
    values = {key: value.replace("HOOK", hook[0]) for key, value in asked.items()}
    with notifying(NotifySection(**values), run_dir, said.append):
        pass
    assert len(said) == 1
    assert told in said[0]
    assert "The run is not touched by that." in said[0]


def test_nobody_is_told_where_nobody_asked(run_dir: RunDir) -> None:
    with notifying(NotifySection(), run_dir, pytest.fail):
        pass


def test_a_spike_is_told_once_while_the_run_goes_on(
    hook: tuple[str, list[dict[str, Any]]], run_dir: RunDir, new_result: Callable[..., Result]
) -> None:
    url, heard = hook
    with notifying(NotifySection(url=url), run_dir, pytest.fail) as tell:
        for step in (12, 13):
            tell(
                Event(step=step, kind="loss_spike", note=f"loss 9.100 where 3.200 was usual, on {run_dir.path}/a.txt:7")
            )
        run_dir.write(new_result(eval_loss=3.25, eval_loss_base=4.5))
    assert [(message["state"], message["event"]) for message in heard] == [
        ("running", "loss_spike"),
        ("finished", None),
    ]
    assert "step 12: loss 9.100 where 3.200 was usual, on " in heard[0]["text"]
    assert str(run_dir.path) not in json.dumps(heard), "no path of this machine"


def test_a_spike_that_cannot_be_told_ends_nothing(run_dir: RunDir) -> None:
    said: list[str] = []
    with notifying(NotifySection(command="no-such-command-anywhere"), run_dir, said.append) as tell:
        tell(Event(step=1, kind="loss_spike", note="high"))
    assert len(said) == 2
    assert all("The run is not touched by that." in line for line in said)
