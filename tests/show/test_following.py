"""What can follow a run: commands that exist, and no others."""

from __future__ import annotations

import shlex
from pathlib import Path

from tunesmith.cli import COMMANDS
from tunesmith.run.artefacts import DataAccount
from tunesmith.run.directory import RunDir
from tunesmith.show.following import AFTER, following


def test_only_commands_that_exist_are_named() -> None:
    lines = following(Path("runs/shows"), "It's late", list(COMMANDS))
    named = [shlex.split(line)[1] for line in lines]
    assert named == [name for name in AFTER if name in COMMANDS]
    assert "compare" in named
    assert following(Path("runs/shows"), "x", ["serve"]) == ["  tunesmith serve runs/shows  an HTTP server for it"]
    assert following(Path("runs/shows"), "x", []) == []


def test_each_line_can_be_copied() -> None:
    line = next(line for line in following(Path("my runs/shows"), "It's late", ["generate"]))
    assert shlex.split(line)[:5] == ["tunesmith", "generate", "my runs/shows", "--prompt", "It's late"]
    assert '--prompt "It\'s late"' in line
    for prompt in ("It's $5", 'a "b" \'c', "it's `ls`", "plain", "it's!", "it's \\"):
        (line,) = following(Path("r"), prompt, ["generate"])
        assert shlex.split(line)[4] == prompt


def test_a_dry_run_says_how_to_train_on_all(tiny_run: RunDir) -> None:
    data = tiny_run.read(DataAccount).model_copy(update={"small": True})
    assert following(Path("r"), "x", [], data)[0].startswith(f"This was a {data.dry_run}. Without --small")
