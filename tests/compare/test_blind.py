"""The blind test: sides hidden and shuffled, choices counted, the interval honest."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tunesmith.compare.blind import BlindTest, run_blind_test, summarise
from tunesmith.errors import RunError
from tunesmith.run.artefacts import Comparison, Sample
from tunesmith.run.directory import RunDir

MakeComparison = Callable[..., Comparison]


@pytest.fixture
def comparison(tiny_run: RunDir) -> MakeComparison:
    """comparison(num_samples): that of the tiny run with so many samples that differ, and one whose texts are alike."""
    known = tiny_run.read(Comparison)

    def sample(prompt: str, base: str, tuned: str) -> Sample:
        one = known.samples[0]
        sides = {
            "base": one.base.model_copy(update={"text": base}),
            "tuned": one.tuned.model_copy(update={"text": tuned}),
        }
        return one.model_copy(update={"prompt": prompt, **sides})

    def make(num_samples: int = 40) -> Comparison:
        samples = [sample(f"p{n} ", f"base {n}", f"tuned {n}") for n in range(num_samples)]
        return known.model_copy(update={"samples": (*samples, sample("same", "x ", " x"))})

    return make


def test_pairs_are_shuffled_by_seed_and_hide_who_wrote_what(comparison: MakeComparison) -> None:
    test = BlindTest.of(comparison(), num_pairs=40, seed=1)
    assert [pair.tuned for pair in test.pairs].count("a") in range(10, 31)
    for pair in test.pairs:
        assert getattr(pair, pair.tuned).startswith("tuned")
        assert set(pair.public()) == {"number", "prompt", "a", "b"}
        assert pair.prompt != "same"
    assert BlindTest.of(comparison(), seed=1).pairs == test.pairs[:20]
    assert BlindTest.of(comparison(), seed=2).pairs != test.pairs[:20]
    assert len({pair.prompt for pair in test.pairs}) == 40


def test_wins_losses_and_ties_are_counted(comparison: MakeComparison) -> None:
    test = BlindTest.of(comparison(), num_pairs=10)
    for pair in test.pairs[:7]:
        test.choose(pair.number, pair.tuned)
    test.choose(7, "b" if test.pairs[7].tuned == "a" else "a")
    test.choose(8, "tie")
    assert test.next_pair == test.pairs[9]
    result = test.result()
    assert (result.wins, result.losses, result.ties, result.num_choices) == (7, 1, 1, 9)
    assert result.win_rate == pytest.approx(7.5 / 9)
    assert result.low < result.win_rate < result.high
    assert [choice.choice for choice in result.choices] == ["tuned"] * 7 + ["base", "tie"]
    assert "7 of 9" in summarise(result)


def test_the_summary_claims_no_more_than_the_interval(comparison: MakeComparison) -> None:
    def told(wins: int, total: int) -> str:
        test = BlindTest.of(comparison(), num_pairs=total)
        for pair in test.pairs:
            test.choose(pair.number, pair.tuned if pair.number < wins else ("b" if pair.tuned == "a" else "a"))
        return summarise(test.result())

    assert "clearly prefer the tuned" in told(18, 20)
    assert "clearly prefer the base" in told(2, 20)
    assert "may be chance" in told(11, 20)
    assert "may be chance" in told(3, 3).replace("clearly", "may be chance")
    assert summarise(BlindTest.of(comparison()).result()) == "No choice was made."


def test_unknown_pairs_and_choices_are_refused(comparison: MakeComparison) -> None:
    test = BlindTest.of(comparison(), num_pairs=5)
    with pytest.raises(RunError, match="no pair 5"):
        test.choose(5, "a")
    with pytest.raises(RunError, match="Expected a, b or tie"):
        test.choose(0, "c")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="nothing to choose between"):
        BlindTest.of(comparison(0))


@pytest.fixture
def compared(tmp_path: Path, comparison: MakeComparison) -> RunDir:
    run_dir = RunDir(tmp_path)
    run_dir.write(comparison())
    return run_dir


def answers(*given: str) -> Callable[[str], str]:
    iterator = iter(given)

    def ask(_: str) -> str:
        try:
            return next(iterator)
        except StopIteration:
            raise EOFError from None

    return ask


def test_the_terminal_loop_asks_again_and_stores_what_was_chosen(compared: RunDir) -> None:
    out = io.StringIO()
    result = run_blind_test(compared, Console(file=out, width=100), num_pairs=6, ask=answers("A", "what?", " = ", "q"))
    assert result.num_choices == 2
    assert compared.read(Comparison).blind == result
    assert len(compared.read(Comparison).samples) == 41
    assert out.getvalue().count("A: p") == 3


def test_quitting_at_once_stores_nothing(compared: RunDir) -> None:
    result = run_blind_test(compared, Console(file=io.StringIO()), ask=answers())
    assert result.num_choices == 0
    assert compared.read(Comparison).blind is None


def test_a_text_cannot_move_the_cursor(compared: RunDir, comparison: MakeComparison) -> None:
    plain = comparison(1)
    sample = plain.samples[0]
    tuned = sample.tuned.model_copy(update={"text": "\x1b[2J[red]gone"})
    compared.write(plain.model_copy(update={"samples": (sample.model_copy(update={"tuned": tuned}),)}))
    out = io.StringIO()
    run_blind_test(compared, Console(file=out), ask=answers("a"))
    assert "\x1b" not in out.getvalue()
    assert "[red]gone" in out.getvalue()


def test_a_run_that_was_not_compared_says_which_command_does_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="tunesmith compare"):
        run_blind_test(RunDir(tmp_path), Console(file=io.StringIO()))
