"""One value for one thing: what training measured on every held-out row stands in the comparison's scores too.

A comparison scores a part of many held-out rows, merges adapters, and may run on another device, so its losses differ
in the third digit. What only it can tell, the width of the intervals, is kept around result.json's value.
"""

from __future__ import annotations

from tunesmith.run.artefacts import Comparison, Interval, Result, Score

TOLERANCE = 0.02
"""Nats beyond its interval by which a loss may differ and still be the same thing: types round otherwise."""
_SHIFTED = {
    "heldout_loss": "eval_loss",
    "heldout_bits_per_byte": "eval_bits_per_byte",
    "heldout_token_accuracy": "eval_token_accuracy",
}


def agreed(comparison: Comparison | None, result: Result | None) -> Comparison | None:
    """`comparison` with the held-out values of `result`; as it is where they are those of other rows or models."""
    if comparison is None or result is None or not _same_rows(comparison, result):
        return comparison
    scores = dict(comparison.scores)
    for name, key in _SHIFTED.items():
        if name in scores:
            scores[name] = _moved(scores[name], getattr(result, f"{key}_base"), getattr(result, key))
    if "heldout_perplexity" in scores:
        scores["heldout_perplexity"] = _scaled(
            scores["heldout_perplexity"], result.eval_perplexity_base, result.eval_perplexity
        )
    return comparison.model_copy(update={"scores": scores})


def _same_rows(comparison: Comparison, result: Result) -> bool:
    """Whether both losses of `result` lie in the comparison's intervals: else its note says that something changed."""
    score = comparison.scores.get("heldout_loss")
    if score is None:
        return False
    return _is_near(score.base, result.eval_loss_base) and _is_near(score.tuned, result.eval_loss)


def _is_near(seen: Interval | None, value: float | None) -> bool:
    if value is None or seen is None or seen.value is None:
        return False
    low, high = (seen.value if edge is None else edge for edge in (seen.low, seen.high))
    return low - TOLERANCE <= value <= high + TOLERANCE


def _moved(score: Score, base: float | None, tuned: float | None) -> Score:
    change = None if base is None or tuned is None else tuned - base
    moved = {"base": _at(score.base, base), "tuned": _at(score.tuned, tuned), "change": _at(score.change, change)}
    return score.model_copy(update=moved)


def _at(interval: Interval | None, value: float | None) -> Interval | None:
    """The interval, as wide, around `value`."""
    if interval is None or interval.value is None or value is None:
        return interval
    by = value - interval.value
    low, high = (None if edge is None else edge + by for edge in (interval.low, interval.high))
    return Interval(value=value, low=low, high=high)


def _scaled(score: Score, base: float | None, tuned: float | None) -> Score:
    """Perplexities: a difference of losses is a ratio of these."""
    scaled = {}
    for side, value in (("base", base), ("tuned", tuned)):
        seen: Interval | None = getattr(score, side)
        if seen is not None and seen.value and value is not None:
            by = value / seen.value
            low, high = (None if edge is None else edge * by for edge in (seen.low, seen.high))
            scaled[side] = Interval(value=value, low=low, high=high)
    return score.model_copy(update=scaled)
