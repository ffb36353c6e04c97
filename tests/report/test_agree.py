"""Tiles, verdict and table show one value for one thing, also of runs that were compared in another arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tunesmith.report.agree import agreed
from tunesmith.report.artefacts import read_artefacts
from tunesmith.report.tables import score_rows, tiles
from tunesmith.run.artefacts import Comparison, Result, Score
from tunesmith.run.directory import RunDir

PAIRS = {
    "Held-out loss": "heldout_loss",
    "Perplexity": "heldout_perplexity",
    "Bits per byte": "heldout_bits_per_byte",
    "Token accuracy": "heldout_token_accuracy",
}


def off_by(comparison: Comparison, nats: float) -> Comparison:
    """As another type of arithmetic, or a part of the rows, measures it."""

    def moved(score: Score) -> Score:
        sides = {side: getattr(score, side) for side in ("base", "tuned")}
        return score.model_copy(
            update={
                side: found.model_copy(update={edge: getattr(found, edge) + nats for edge in ("value", "low", "high")})
                for side, found in sides.items()
            }
        )

    scores = {name: moved(comparison.scores[name]) for name in PAIRS.values()}
    return comparison.model_copy(update={"scores": {**comparison.scores, **scores}})


def test_a_comparison_of_the_same_rows_measures_what_training_did(tiny_run: RunDir) -> None:
    result, comparison = tiny_run.read(Result), tiny_run.read(Comparison)
    scores = comparison.scores
    for name, key in (("heldout_loss", "eval_loss"), ("heldout_bits_per_byte", "eval_bits_per_byte")):
        assert scores[name].base.value == pytest.approx(getattr(result, f"{key}_base"), rel=1e-14), name
        assert scores[name].tuned.value == pytest.approx(getattr(result, key), rel=1e-14), name


@pytest.mark.parametrize("nats", [0.0, -0.005, 0.005, 0.02])
def test_tiles_and_table_agree(copied_run: RunDir, nats: float) -> None:
    copied_run.write(off_by(copied_run.read(Comparison), nats))
    found = read_artefacts(copied_run)
    rows = {row.title: row for row in score_rows(found.compare)}
    shown = {tile.label: tile for tile in tiles(found)}
    for label, name in PAIRS.items():
        assert found.compare is not None
        row = rows[found.compare.scores[name].title]
        assert (shown[label].value, shown[label].before) == (row.values["tuned"], row.values["base"]), label


def test_the_interval_stays_as_wide_and_holds_the_value(tiny_run: RunDir) -> None:
    result, own = tiny_run.read(Result), tiny_run.read(Comparison)
    seen = agreed(off_by(own, 0.01), result)
    assert seen is not None
    for side in ("base", "tuned", "change"):
        before, after = (getattr(one.scores["heldout_loss"], side) for one in (own, seen))
        assert after.low <= after.value <= after.high
        assert after.high - after.low == pytest.approx(before.high - before.low)
    assert seen.scores["heldout_loss"].change.value == pytest.approx(result.eval_loss - result.eval_loss_base)
    perplexity = seen.scores["heldout_perplexity"].tuned
    assert perplexity.low < perplexity.value == result.eval_perplexity < perplexity.high


def test_scores_of_other_rows_or_models_are_left_alone(tiny_run: RunDir, new_result: Callable[..., Result]) -> None:
    other = off_by(tiny_run.read(Comparison), 1.5)
    assert agreed(other, tiny_run.read(Result)) is other
    assert agreed(other, None) is other
    assert agreed(None, tiny_run.read(Result)) is None
    assert agreed(other, new_result()) is other
