"""A blind test: a person chooses between A and B without knowing which the tuned model wrote.

`BlindTest` is the session, without a terminal: it shuffles, counts and judges. The terminal and a web page both ask it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from tunesmith.compare.intervals import wilson_interval
from tunesmith.errors import RunError
from tunesmith.redact import visible
from tunesmith.run.artefacts import BlindChoice, BlindResult, Comparison, Sample
from tunesmith.run.directory import RunDir

if TYPE_CHECKING:
    from rich.console import Console

NUM_PAIRS = 20
Choice = Literal["a", "b", "tie"]
KEYS: dict[str, Choice] = {"a": "a", "b": "b", "=": "tie", "tie": "tie"}


@dataclass(frozen=True)
class Pair:
    """Two continuations of one prompt; `tuned` says which is the tuned model's and is not shown."""

    number: int
    prompt: str
    a: str
    b: str
    tuned: Literal["a", "b"]

    def public(self) -> dict[str, int | str]:
        """What the person may see."""
        return {"number": self.number, "prompt": self.prompt, "a": self.a, "b": self.b}


@dataclass
class BlindTest:
    """Pairs in random order and the choices made so far, by pair number."""

    pairs: list[Pair]
    choices: dict[int, Choice] = field(default_factory=dict)

    @classmethod
    def of(cls, comparison: Comparison, *, num_pairs: int = NUM_PAIRS, seed: int = 0) -> BlindTest:
        """Up to `num_pairs` samples of compare.json whose two texts differ, order and sides shuffled by `seed`.

        Raises RunError when no sample differs.
        """
        samples = [sample for sample in comparison.samples if _texts_differ(sample)]
        if not samples:
            raise RunError(
                "blind test: base and tuned wrote the same for every prompt, so there is nothing to choose between. "
                "Run `tunesmith compare RUN` again after training."
            )
        generator = np.random.default_rng(seed)
        pairs = []
        for number, index in enumerate(generator.permutation(len(samples))[:num_pairs].tolist()):
            sample, swap = samples[index], bool(generator.integers(2))
            texts = (sample.tuned.text, sample.base.text)
            first, second = texts if swap else texts[::-1]
            pairs.append(Pair(number, sample.prompt, first, second, "a" if swap else "b"))
        return cls(pairs)

    @property
    def next_pair(self) -> Pair | None:
        """The first pair without a choice."""
        return next((pair for pair in self.pairs if pair.number not in self.choices), None)

    def choose(self, number: int, choice: Choice) -> None:
        """Record a choice; a later one for the same pair replaces it. Raises RunError for an unknown pair or choice."""
        if not any(pair.number == number for pair in self.pairs):
            raise RunError(f"blind test: no pair {number}. Expected 0 to {len(self.pairs) - 1}.")
        if choice not in ("a", "b", "tie"):
            raise RunError(f"blind test: found {choice!r}. Expected a, b or tie.")
        self.choices[number] = choice

    def result(self) -> BlindResult:
        """Wins of the tuned model, its win rate (a tie counts half) with Wilson's 95% interval, and each choice."""
        chosen = [(pair, self.choices[pair.number]) for pair in self.pairs if pair.number in self.choices]
        ties = sum(choice == "tie" for _, choice in chosen)
        wins = sum(choice == pair.tuned for pair, choice in chosen)
        rate, low, high = wilson_interval(wins + ties / 2, len(chosen))
        return BlindResult(
            num_choices=len(chosen),
            wins=wins,
            losses=len(chosen) - wins - ties,
            ties=ties,
            win_rate=rate,
            low=low,
            high=high,
            choices=tuple(
                BlindChoice(prompt=pair.prompt, choice=_name(pair, choice), tuned=getattr(pair, pair.tuned))
                for pair, choice in chosen
            ),
        )


def summarise(result: BlindResult) -> str:
    """`Tuned was preferred in 14 of 20 (70%, 95% interval 48% to 85%): ...`."""
    total = result.num_choices
    if not total:
        return "No choice was made."
    told = (
        f"You preferred the tuned model in {result.wins} of {total}, the base in {result.losses}, neither in "
        f"{result.ties}: a win rate of {result.win_rate:.0%} (95% interval {result.low:.0%} to {result.high:.0%})"
    )
    if result.low > 0.5:
        return f"{told}. You clearly prefer the tuned model."
    if result.high < 0.5:
        return f"{told}. You clearly prefer the base."
    return f"{told}. That may be chance; more choices would tell."


def store(run_dir: RunDir, result: BlindResult) -> None:
    """Keep the result in compare.json."""
    run_dir.write(run_dir.read(Comparison).model_copy(update={"blind": result}))


def run_blind_test(
    run_dir: RunDir,
    console: Console,
    *,
    num_pairs: int = NUM_PAIRS,
    seed: int = 0,
    ask: Callable[[str], str] = input,
) -> BlindResult:
    """Ask in the terminal until all pairs are judged or the person quits, then store and print the result.

    Raises RunError when the run was not compared yet.
    """
    test = BlindTest.of(run_dir.read(Comparison), num_pairs=num_pairs, seed=seed)
    console.print(f"{len(test.pairs)} pairs. Which do you like better? a, b, = (no difference), q (enough)")
    while (pair := test.next_pair) is not None:
        _show(pair, len(test.pairs), console)
        answer = _answer(ask)
        if answer is None:
            break
        test.choose(pair.number, answer)
    result = test.result()
    if result.num_choices:
        store(run_dir, result)
    console.print(summarise(result), markup=False, highlight=False)
    return result


def _show(pair: Pair, total: int, console: Console) -> None:
    console.rule(f"{pair.number + 1} of {total}")
    for name, text in (("A", pair.a), ("B", pair.b)):
        console.print(f"{name}: {visible(pair.prompt + text)}\n", markup=False, highlight=False)


def _answer(ask: Callable[[str], str]) -> Choice | None:
    """A choice, or None to stop."""
    while True:
        try:
            answer = ask("a, b, = or q: ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            return None
        if answer in ("q", "quit"):
            return None
        if answer in KEYS:
            return KEYS[answer]


def _texts_differ(sample: Sample) -> bool:
    return sample.base.text.strip() != sample.tuned.text.strip()


def _name(pair: Pair, choice: Choice) -> Literal["tuned", "base", "tie"]:
    if choice == "tie":
        return "tie"
    return "tuned" if choice == pair.tuned else "base"
