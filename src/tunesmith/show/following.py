"""What can be done with a run that has ended: the commands that exist, each ready to be copied."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.report.first import as_argument

if TYPE_CHECKING:
    from tunesmith.run.artefacts import DataAccount

AFTER = {
    "compare": ("compare {run}", "both models side by side, scored"),
    "generate": ("generate {run} --prompt {prompt}", "text of the tuned model"),
    "chat": ("chat {run}", "talk with it"),
    "eval": ("eval {run} --data FILE", "its loss on other texts"),
    "serve": ("serve {run}", "an HTTP server for it"),
    "export": ("export {run} --format safetensors", "one model for other programs"),
    "report": ("report {run}", "the report, written again"),
}
"""By command: how it is called after a run, and what for."""


def following(path: Path, prompt: str, commands: Collection[str], data: DataAccount | None = None) -> list[str]:
    """A line for each of `commands` that can follow the run at `path`, in the order in which they help."""
    run, quoted = shlex.quote(str(path)), as_argument(prompt)
    calls = {
        f"tunesmith {call.format(run=run, prompt=quoted)}": what
        for name, (call, what) in AFTER.items()
        if name in commands
    }
    width = max(map(len, calls), default=0)
    lines = [f"  {call:{width}}  {what}" for call, what in calls.items()]
    if data is not None and data.dry_run:
        return [f"This was a {data.dry_run}. Without --small the same command trains on every row.", *lines]
    return lines
