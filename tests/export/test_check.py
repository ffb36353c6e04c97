"""What counts as the same model, and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tunesmith.errors import ModelError
from tunesmith.export.check import Engine, Row, Seen, check_passed, first_rows, openings, part_of, round_trip
from tunesmith.run.artefacts import RoundTrip

ROWS = [Row((0, 5, 6, 7), (False, True, True, True)), Row((0, 8, 9), (False, False, True))]
SEEN = Seen(
    np.log([0.5, 0.4, 0.3, 0.2]), np.array([5, 6, 7, 9]), np.array([1.0, 1.0, 1.0, 0.001]), ((3, 4),), ((2.0, 0.001),)
)


def trip(found: Seen, quant: str = "f32") -> RoundTrip:
    return round_trip(Engine("an engine", 0.0), SEEN, found, ROWS, quant)  # type: ignore[arg-type]


def test_the_same_passes() -> None:
    same = trip(SEEN)
    assert same.passed
    assert (same.num_tokens, same.num_unlisted, same.same_first, same.same_texts) == (4, 0, 1.0, 1)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (replace(SEEN, logprobs=SEEN.logprobs - 0.01), "loss 1.1"),
        (replace(SEEN, first=np.array([5, 6, 1, 9])), "likeliest token 75.0% of the time"),
        (replace(SEEN, texts=((1, 4),)), "0 of 1 texts the same"),
        (replace(SEEN, logprobs=np.full(4, np.nan)), "loss nan"),
    ],
)
def test_what_differs_is_named(found: Seen, told: str) -> None:
    with pytest.raises(ModelError, match=told) as caught:
        check_passed(trip(found), "out.gguf")
    assert "Nothing was written" in str(caught.value)


def test_rounded_weights_are_told_from_the_tuned_ones() -> None:
    tuned = replace(SEEN, logprobs=SEEN.logprobs + 0.1)
    seen = round_trip(Engine("an engine", 0.0), SEEN, SEEN, ROWS, "q8_0", tuned)
    assert seen.against == "the tuned model with its weights rounded to q8_0"
    assert seen.expected_loss - seen.tuned_loss == pytest.approx(0.1)


def test_near_ties_may_go_either_way() -> None:
    assert trip(replace(SEEN, first=np.array([5, 6, 7, 1]), texts=((3, 1),))).passed


def test_tokens_without_a_probability_are_left_out_and_counted() -> None:
    """The others keep their places: the server leaves half of a UTF-8 character out of its list."""
    partly = replace(SEEN, logprobs=np.where([False, True, False, False], np.nan, SEEN.logprobs))
    seen = trip(partly)
    assert seen.passed
    assert (seen.num_tokens, seen.num_unlisted) == (3, 1)


def test_a_coarser_type_may_differ_more() -> None:
    moved = replace(SEEN, logprobs=SEEN.logprobs - 0.01)
    assert not trip(moved).passed
    assert trip(moved, "q8_0").passed


def test_the_first_rows_are_cut_at_the_last_target() -> None:
    part = first_rows(ROWS, 2)
    assert part == [Row((0, 5, 6), (False, True, True))]
    assert part_of(SEEN, part).logprobs.tolist() == SEEN.logprobs[:2].tolist()
    assert first_rows(ROWS, 99) == ROWS


def test_an_opening_ends_before_its_document() -> None:
    assert openings(ROWS) == [(0, 5, 6), (0, 8)]
    long = Row(tuple(range(40)), (False,) * 20 + (True,) * 20)
    assert openings([long]) == [tuple(range(19))]
