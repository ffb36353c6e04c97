"""What is searched: the values of recipe keys.

train.learning_rate=1e-5..1e-3:log      a range, on a logarithmic scale
train.epochs=1..4                        whole numbers where both ends are
train.schedule=linear,cosine             one of these
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from tunesmith.errors import SweepError
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    import optuna

    from tunesmith.run.artefacts import Plan

Value = float | int | str | bool
RATE, STEP = "train.learning_rate", "train.tokens_per_step"
RATE_FACTOR = 6.0
"""The default space reaches this far below and above the rate that the plan would choose."""
STEP_FACTORS = (0.5, 1.0, 2.0)
_HOW = "Expected key=LOW..HIGH, key=LOW..HIGH:log or key=A,B,..., such as train.learning_rate=1e-5..1e-3:log."


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included."""

    key: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def suggest(self, trial: optuna.Trial) -> Value:
        if self.whole:
            return int(trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log))
        return float(trial.suggest_float(self.key, self.low, self.high, log=self.log))

    def holds(self, value: float) -> bool:
        """Whether a trial could have this value."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.key}={self.low:g}..{self.high:g}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    key: str
    values: tuple[Value, ...]

    def suggest(self, trial: optuna.Trial) -> Value:
        chosen: Value = trial.suggest_categorical(self.key, list(self.values))
        return chosen

    def holds(self, value: float) -> bool:
        """Whether a trial could have this value."""
        return value in self.values

    def __str__(self) -> str:
        return f"{self.key}={','.join(map(str, self.values))}"


Space = tuple[Range | Choice, ...]


def parse_space(texts: Sequence[str], recipe: Recipe) -> Space:
    """The space that --over names. Raises SweepError for what is no space, with all of its problems at once.

    Each end of a range, and each choice, must be a value that the recipe takes.
    """
    space, problems = [], []
    for text in texts:
        try:
            one = _parse(text)
            _check(one, recipe)
            space.append(one)
        except SweepError as error:
            problems.append(str(error))
    keys = [one.key for one in space]
    problems += [f"--over {key}: given twice. Leave one out." for key in sorted({k for k in keys if keys.count(k) > 1})]
    if problems:
        raise SweepError("\n".join(problems))
    return tuple(space)


def default_space(plan: Plan) -> Space:
    """The learning rate around what the plan chose, and the size of a step: what decides most."""
    sizes = tuple(max(1, round(plan.tokens_per_step * factor)) for factor in STEP_FACTORS)
    rate = plan.learning_rate
    return (Range(RATE, rate / RATE_FACTOR, min(rate * RATE_FACTOR, 0.5), log=True), Choice(STEP, sizes))


def overrides(values: Mapping[str, Value]) -> list[str]:
    """As --set takes them."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Value) -> str:
    return repr(value) if isinstance(value, float) else yaml.safe_dump(value).removesuffix("...\n").strip()


def _parse(text: str) -> Range | Choice:
    key, equals, rest = (part.strip() for part in text.partition("="))
    if not equals or "." not in key or not rest:
        raise SweepError(f"--over {text}: {_HOW}")
    low, dots, high = rest.partition("..")
    if dots:
        high, _, scale = high.partition(":")
        return _range(text, key, low, high, scale)
    values = tuple(_read(part) for part in rest.split(","))
    if len(values) < 2:
        raise SweepError(f"--over {text}: one value leaves nothing to choose. {_HOW}")
    return Choice(key, values)


def _range(text: str, key: str, low: str, high: str, scale: str) -> Range:
    ends = _read(low), _read(high)
    if scale not in ("", "log") or not all(isinstance(end, int | float) for end in ends):
        raise SweepError(f"--over {text}: {_HOW}")
    first, last = (float(end) for end in ends)
    if not first < last:
        raise SweepError(f"--over {text}: {low} is not below {high}.")
    if scale == "log" and first <= 0:
        raise SweepError(f"--over {text}: a logarithmic scale begins above 0.")
    return Range(key, first, last, scale == "log", all(isinstance(end, int) for end in ends))


def _read(text: str) -> Value:
    """A value as a recipe file would read it; YAML takes 1e-5 for text."""
    try:
        value = yaml.safe_load(text.strip())
    except yaml.YAMLError:
        value = text.strip()
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, int | float | bool):
        return value
    return text.strip()


def _check(one: Range | Choice, recipe: Recipe) -> None:
    tried: list[Any] = list(one.values) if isinstance(one, Choice) else [one.low, one.high]
    if isinstance(one, Range) and one.whole:
        tried = [int(value) for value in tried]
    for value in tried:
        Recipe.parse(recipe.model_dump(mode="json"), f"--over {one}", overrides=overrides({one.key: value}))
