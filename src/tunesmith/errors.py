"""Every exception tunesmith raises on purpose.

    TunesmithError            something the user can fix: exit code 2, one message, no traceback
    ├── RecipeError           the recipe cannot be read or is not valid (all problems at once)
    ├── DataError             the data cannot be read or is not fit to train on
    ├── ModelError            the model or tokenizer cannot be loaded, or has no supported structure
    ├── PlanError             what was asked does not fit the machine
    ├── RunError              a run directory is missing, busy, damaged, or belongs to another recipe
    ├── ServeError            a server cannot be started: no key, a taken port, a missing package
    ├── TrainingError         training cannot go on (non-finite numbers, a document that does not fit)
    └── SweepError            a search space is none, or its folder belongs to another search
    Stopped                   the run ended before its end and can be resumed: exit code 75

A message says where, what was found, what was expected and what to do. Anything else is a bug: exit code 1.
"""

from __future__ import annotations


class TunesmithError(Exception):
    """Something the user can fix. The command line prints the message alone and exits with 2."""

    exit_code = 2


class RecipeError(TunesmithError):
    """The recipe cannot be read, or its values are not valid."""


class DataError(TunesmithError):
    """The data cannot be read, or nothing in it can be trained on."""


class ModelError(TunesmithError):
    """The model or its tokenizer cannot be loaded, or has a structure that is not supported."""


class PlanError(TunesmithError):
    """What was asked does not fit the machine."""


class RunError(TunesmithError):
    """A run directory is missing, locked, damaged, or belongs to another recipe."""


class ServeError(TunesmithError):
    """A server cannot be started: no key for an address that others reach, a taken port, a missing package."""


class TrainingError(TunesmithError):
    """Training cannot go on: non-finite numbers, or a document that does not fit in memory even alone."""


class SweepError(TunesmithError):
    """What is to be searched is no space, or the folder holds another search."""


class Stopped(Exception):
    """The run stopped before its end and can be resumed with the command in `resume`."""

    exit_code = 75

    def __init__(self, reason: str, resume: str) -> None:
        super().__init__(f"stopped: {reason}. Resume with: {resume}")
        self.reason = reason
        self.resume = resume
