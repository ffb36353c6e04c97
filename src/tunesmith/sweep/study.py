"""The trials as optuna keeps them (Akiba et al., 2019), in an SQLite file that outlives every process.

A process that is killed leaves a trial that says it is running. When the sweep goes on, such a trial is marked as
failed and its values are tried again first. What a trial reports stands at a number of tokens (marks.py), so that
trials with steps of different sizes are compared at equal tokens.
"""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import SweepError
from tunesmith.sweep.begun import check_same
from tunesmith.sweep.space import Space

if TYPE_CHECKING:
    import optuna

STUDY, SPACE = "study.db", "space.json"
STARTUP_TRIALS = 5
"""Trials at random before the search learns from them, and before any is ended early."""
RUN = "run"
"""What a trial remembers: the name of its run directory,"""
SCORES, SHARES = "scores", "shares"
"""the held-out loss of each of its evaluations, and the share of its tokens that it was fed until then."""


@dataclass(frozen=True)
class Study:
    """The trials of one folder."""

    folder: Path
    space: Space
    kept: optuna.Study

    @classmethod
    def open(cls, folder: Path, space: Space, asked: dict[str, Any], *, seed: int) -> Study:
        """The study of a folder, begun or gone on with. Raises SweepError when it searches something else.

        asked: what else trials depend on; two sweeps that differ in it cannot be compared.
        """
        if importlib.util.find_spec("optuna") is None:
            raise SweepError("sweep: optuna is not installed. Run: pip install 'tunesmith[sweep]'")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        folder.mkdir(parents=True, exist_ok=True)
        check_same(folder / SPACE, {"space": [str(one) for one in space], **asked})
        study = optuna.create_study(
            storage=f"sqlite:///{folder / STUDY}",
            study_name="sweep",
            direction="minimize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
        )
        return cls(folder, space, study)

    def mend(self) -> int:
        """Give the values of trials that a killed process left running to the next trials; how many there were."""
        import optuna

        left = self.kept.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        for trial in left:
            self.kept.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params:
                self.kept.enqueue_trial(trial.params)
        return len(left)

    def try_first(self, values: dict[str, Any]) -> None:
        """Try these before anything else, where no trial was made yet: what the plan would choose is always known."""
        if not self.kept.get_trials(deepcopy=False):
            self.kept.enqueue_trial(values)

    @property
    def num_made(self) -> int:
        """Trials that ended, however; those that failed or were cut off do not count."""
        return len(self.made)

    @property
    def made(self) -> list[optuna.trial.FrozenTrial]:
        """Trials with a value, and those that were ended early."""
        import optuna

        ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        return list(self.kept.get_trials(deepcopy=False, states=ended))

    @property
    def num_begun(self) -> int:
        """Those, and the ones that other workers are making."""
        import optuna

        return self.num_made + len(self.kept.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)))

    @property
    def ended(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that ended, those that failed too."""
        return [trial for trial in self.kept.get_trials(deepcopy=False) if trial.state.is_finished()]

    @property
    def best(self) -> optuna.trial.FrozenTrial | None:
        """The complete trial with the lowest held-out loss."""
        import optuna

        complete = [trial for trial in self.made if trial.state == optuna.trial.TrialState.COMPLETE]
        return min(complete, key=_value, default=None)

    def importances(self) -> dict[str, float]:
        """How much of the spread of losses each key explains (fANOVA), largest first; empty for too few trials."""
        import optuna

        if len({trial.value for trial in self.made if trial.value is not None}) < STARTUP_TRIALS:
            return {}
        with contextlib.suppress(ValueError, RuntimeError):  # values that are all alike explain nothing
            found: dict[str, float] = optuna.importance.get_param_importances(self.kept)
            return found
        return {}


def _value(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.value)
