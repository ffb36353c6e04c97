"""The numbers of a run, each with its name: the same on the screen and on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith.units import format_bytes, format_seconds
from tunesmith.watch.view import View


@dataclass(frozen=True)
class Fact:
    """A line about a run: its name and its value, as text."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name} {self.value}"


def facts(view: View, price: float | None) -> Iterator[Fact]:
    """What is known of the run now. price: of the machine, an hour."""
    line, base, plan = view.line, view.base_loss, view.plan
    last = view.held_out.points[-1][1] if view.held_out.lines else None
    if line is not None and line.loss is not None:
        yield Fact("loss", f"{line.loss:.3f}")
    if base is not None and last is not None:
        yield Fact("held-out", f"{base:.3f} -> {last:.3f}" if len(view.held_out.lines) > 1 else f"{base:.3f} (base)")
    if line is not None:
        yield Fact("speed", f"{line.tokens_per_second or 0:,.0f} tokens/s")
        if plan is not None and plan.predicted is not None and line.tokens_per_second:
            yield Fact("of planned", f"{line.tokens_per_second / plan.predicted.tokens_per_second:.0%}")
        yield Fact("epoch", f"{line.epoch:.2f}")
        yield Fact("rate", f"{line.learning_rate or 0:.2e}")
        yield Fact("norm", f"{line.grad_norm or 0:.2f}")
        if line.peak_bytes:
            yield Fact("peak", format_bytes(line.peak_bytes))
        if line.energy_joules is not None:
            yield Fact("energy", f"{line.energy_joules / 3.6e6:,.3f} kWh")
    if price is not None:
        yield Fact("cost", cost(view, price))


def cost(view: View, price: float) -> str:
    """So far, and until the end where that is known."""
    so_far, left = view.seconds / 3600 * price, view.standing.seconds_left
    whole = f" of {so_far + left / 3600 * price:,.2f}" if left is not None else ""
    return f"{so_far:,.2f}{whole} at {price:g} an hour"


def progress(view: View) -> str:
    """`40/82  1 min  2 min left`."""
    found = view.standing
    left = f"  {format_seconds(found.seconds_left)} left" if found.seconds_left is not None else ""
    return f"{found.step:,}/{max(1, found.num_steps or found.step):,}  {format_seconds(view.seconds)}{left}"
