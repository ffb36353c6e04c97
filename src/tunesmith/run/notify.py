"""A word when a run ends, and when its loss stands out: a webhook is called, a command is run. Whatever goes wrong with
that never ends a run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial

from tunesmith.disk import finite
from tunesmith.errors import Stopped
from tunesmith.recipe import NotifySection
from tunesmith.redact import redact
from tunesmith.run.artefacts import Event, JsonObject, Result, State, Status
from tunesmith.run.directory import RunDir

URL_SECONDS = 10.0
COMMAND_SECONDS = 60.0
EVENT_SECONDS = 600.0
"""Between two words about events of one run."""
_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")
Say = Callable[[str], None]


@contextlib.contextmanager
def notifying(asked: NotifySection, run_dir: RunDir, say: Say) -> Iterator[Callable[[Event], None]]:
    """Tell of the end of what happens inside: finished, stopped or failed. Yields what tells of an event meanwhile."""
    meanwhile = _Meanwhile(asked, run_dir, say)
    try:
        yield meanwhile.tell
    except BaseException as error:
        meanwhile.wait()
        state: State = "stopped" if isinstance(error, Stopped) else "failed"
        _notify(asked, run_dir, say, partial(_message, run_dir, state, _why(error)))
        raise
    meanwhile.wait()
    _notify(asked, run_dir, say, partial(_message, run_dir, "finished", ""))


class _Meanwhile:
    """Tells of events in a thread of its own, so that no step waits for an address; seldom, as spikes come in heaps."""

    def __init__(self, asked: NotifySection, run_dir: RunDir, say: Say) -> None:
        self.asked, self.run_dir, self.say = asked, run_dir, say
        self._told: float | None = None
        self._thread: threading.Thread | None = None

    def tell(self, event: Event) -> None:
        now = time.monotonic()
        if self._told is not None and now - self._told < EVENT_SECONDS:
            return
        self._told = now
        why = self.run_dir.places.by_name(f"step {event.step}: {event.note}")
        self._thread = threading.Thread(
            target=_notify,
            args=(self.asked, self.run_dir, self.say, partial(_message, self.run_dir, "running", why, event)),
            daemon=True,
        )
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join(URL_SECONDS + COMMAND_SECONDS)


def _why(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or next(iter(str(error).splitlines()), repr(error)))


def _notify(asked: NotifySection, run_dir: RunDir, say: Say, make: Callable[[], JsonObject]) -> None:
    if not run_dir.writes or (asked.url is None and asked.command is None):
        return
    message = make()
    for what, send in ((asked.url, _call), (asked.command, _run)):
        if what is None:
            continue
        try:
            send(what, message)
        except Exception as problem:  # the user's own hook: it may fail in any way
            told = redact(str(problem).splitlines()[0] if str(problem) else type(problem).__name__)
            say(f"notify: {told[:200]}. The run is not touched by that.")


def _message(run_dir: RunDir, state: State, why: str, event: Event | None = None) -> JsonObject:
    """What is told; `text` and `content` say it in one line, for Slack, Mattermost, Discord and their like."""
    status, result = run_dir.find(Status), run_dir.find(Result)
    step, num_steps = (status.step, status.num_steps) if status is not None else (0, 0)
    name = run_dir.path.resolve().name
    line = f"{name}: {state}{f' ({why})' if why else ''}, step {step:,} of {num_steps:,}"
    if state == "finished" and result is not None and result.eval_loss is not None:
        line += f", held-out loss {result.eval_loss_base:.3f} -> {result.eval_loss:.3f}"
    line = redact(line)
    scores = result.to_json() if state == "finished" and result is not None else {}
    return {
        "text": line,
        "content": line,
        "run": name,
        "state": state,
        "why": redact(why),
        "event": event.kind if event is not None else None,
        "step": step,
        "num_steps": num_steps,
        **{key: scores.get(key) for key in ("eval_loss_base", "eval_loss", "train_seconds", "tokens_per_second")},
    }


def _call(url: str, message: JsonObject) -> None:
    """POST the message as JSON. Raises OSError or ValueError when nobody takes it."""
    address = _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), url)
    if not address.startswith(("https://", "http://")):
        raise ValueError("notify.url is no web address; a variable in it may not be set")
    body = json.dumps(finite(message)).encode()
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=URL_SECONDS):
            return
    except OSError as error:
        raise OSError(f"the address was not reached ({getattr(error, 'reason', None) or error})") from None


def _run(command: str, message: JsonObject) -> None:
    """Run the command, without a shell, with the message on its standard input and its line in $TUNESMITH_MESSAGE."""
    environment = {**os.environ, "TUNESMITH_MESSAGE": str(message["text"]), "TUNESMITH_STATE": str(message["state"])}
    done = subprocess.run(
        shlex.split(command),
        input=json.dumps(finite(message)).encode(),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode:
        told = done.stderr.decode("utf-8", errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"the command ended with {done.returncode}{': ' + told[0] if told else ''}")
