"""What is said of a forecast."""

from __future__ import annotations

import pytest

from tunesmith.sweep.curve.asked import Asked
from tunesmith.sweep.curve.forecast import forecast
from tunesmith.sweep.curve.values import Curve, Point


def point(num_rows: int, loss: float, *, model: str = "somewhere", again: bool = False, speed: float = 300.0) -> Point:
    return Point(
        model=model,
        share=num_rows / 8000,
        again=again,
        num_rows=num_rows,
        train_tokens=30 * num_rows,
        tokens_per_step=256,
        learning_rate=2e-4,
        steps=30 * num_rows // 256,
        eval_loss=loss,
        eval_bits_per_byte=1.0,
        base_loss=4.5,
        train_seconds=30 * num_rows / speed,
        tokens_per_second=speed,
    )


def curve(*points: Point) -> Curve:
    return Curve(
        model="somewhere",
        num_rows=8000,
        num_held_out=800,
        held_out_error=0.02,
        base_loss=4.5,
        points=points,
        exponent=None,
        floor=None,
        noise=None,
        forecasts=(),
        bigger=None,
        verdict=(),
    )


def through(*losses: float) -> tuple[Point, ...]:
    first, second, third = losses
    return (point(400, first), point(400, first, again=True), point(800, second), point(1600, third))


def test_a_flat_curve_wants_no_more_rows_and_a_steep_one_does() -> None:
    flat = forecast(curve(*through(3.505, 3.501, 3.5)), Asked())
    assert "Four times the rows would bring about 0.0" in flat.verdict[2]
    assert flat.verdict[2].endswith(": not worth it.")
    steep = forecast(curve(*through(4.2, 4.0, 3.75)), Asked())
    assert steep.verdict[2].endswith(": worth it.")
    between = forecast(curve(*through(3.62, 3.55, 3.49)), Asked())
    assert between.verdict[2].endswith(": probably not worth it; larger --shares would tell.")


def test_the_forecasts_stand_at_multiples_of_the_rows_with_their_minutes() -> None:
    found = forecast(curve(*through(3.62, 3.55, 3.49)), Asked())
    assert [one.num_rows for one in found.forecasts] == [4000, 8000, 16000, 32000]
    assert [one.minutes for one in found.forecasts] == pytest.approx([20 / 3, 40 / 3, 80 / 3, 160 / 3])
    values = [one.eval_loss.value for one in found.forecasts]
    assert values == sorted(values, reverse=True)
    assert found.forecasts[1].gain.value == 0
    assert found.forecasts[0].gain.value < 0 < found.forecasts[2].gain.value < found.forecasts[3].gain.value
    assert found.bigger is None
    assert not any("bigger" in sentence for sentence in found.verdict)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (3.1, "worth it."),
        (3.47, "probably worth it; larger --shares would tell."),
        (3.61, "not worth it."),
        (3.9, "leave it."),
    ],
)
def test_a_bigger_model_moves_the_curve(loss: float, told: str) -> None:
    points = (*through(3.62, 3.55, 3.49), point(400, loss, model="large", speed=100.0))
    found = forecast(curve(*points), Asked(bigger="large"))
    assert found.bigger is not None
    assert found.bigger.gain.low <= 3.62 - loss <= found.bigger.gain.high + 0.05
    sentence = found.verdict[-1]
    assert sentence.startswith("large would ")
    assert "in 3.0 times the minutes" in sentence
    assert sentence.endswith(f": {told}")
