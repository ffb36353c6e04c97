"""The forecast in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.sweep.curve.values import Band, Bigger, Curve, Forecast

WORTH = 0.1
"""A gain that is worth four times the rows, or another model: about a tenth of the perplexity."""


def verdict(curve: Curve) -> tuple[str, ...]:
    """What to do, each sentence with its number and interval."""
    return tuple(_sentences(curve))


def as_text(band: Band, digits: int = 2) -> str:
    """As `3.36 (3.32 to 3.43)`."""
    return f"{band.value:.{digits}f} ({band.low:.{digits}f} to {band.high:.{digits}f})"


def _sentences(curve: Curve) -> Iterator[str]:
    half, whole, _, four = curve.forecasts
    yield f"All {curve.num_rows:,} rows are likely to end at {as_text(whole.eval_loss)}{_minutes(whole)}."
    yield f"Half of them would lose about {as_text(_turned(half.gain))}."
    yield f"Four times the rows would bring about {as_text(four.gain)}: {_worth(four.gain)}."
    if curve.bigger is not None:
        yield _of_bigger(curve.bigger, whole)


def _of_bigger(bigger: Bigger, whole: Forecast) -> str:
    own = next(one for one in bigger.forecasts if one.num_rows == whole.num_rows)
    times = ""
    if own.minutes and whole.minutes:
        times = f", in {own.minutes / whole.minutes:.1f} times the minutes"
    if bigger.gain.high <= 0:
        return f"{bigger.name} would end {as_text(_turned(bigger.gain))} higher on the same rows{times}: leave it."
    return f"{bigger.name} would bring about {as_text(bigger.gain)} on the same rows{times}: {_worth(bigger.gain)}."


def _turned(gain: Band) -> Band:
    """A gain as a loss."""
    return Band(value=-gain.value, low=-gain.high, high=-gain.low)


def _worth(gain: Band) -> str:
    if gain.high < WORTH:
        return "not worth it"
    if gain.low >= WORTH:
        return "worth it"
    likely = "probably worth it" if gain.value >= WORTH else "probably not worth it"
    return f"{likely}; larger --shares would tell"


def _minutes(forecast: Forecast) -> str:
    return "" if forecast.minutes is None else f", in about {forecast.minutes:,.0f} min of training"
