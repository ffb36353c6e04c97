"""Numbers as a report shows them, each with the precision that it deserves."""

from __future__ import annotations

import math
from typing import Any

MINUS = "−"
MISSING = "–"


def number(value: Any) -> float | None:
    """`value` when it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def fixed(value: Any, digits: int) -> str:
    """`1,234.50` with a real minus sign; a dash when there is no number."""
    found = number(value)
    if found is None:
        return MISSING
    text = f"{abs(found):,.{digits}f}"
    return MINUS + text if found < 0 and any(digit in text for digit in "123456789") else text


def percent(value: Any) -> str:
    """`3.1%` below ten percent, `31%` above."""
    found = number(value)
    if found is None:
        return MISSING
    return fixed(found * 100, 0 if abs(found) >= 0.0995 or found == 0 else 1) + "%"


def by_unit(value: Any, unit: str) -> str:
    """A score in its unit."""
    if unit == "share":
        return percent(value)
    digits = {"AUC": 2, "words": 1, "cosine": 2, "tokens": 1}.get(unit, 3)
    return fixed(value, digits)


def signed(text: str) -> str:
    """A plus sign before a change that is neither negative nor missing."""
    return text if text.startswith(MINUS) or text == MISSING else f"+{text}"


def short(value: float) -> str:
    """Tick labels: `0.0002` as `2e-4`, `12,000` as `12k`, `3.5` as `3.5`."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if 0 < size < 0.01:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{MINUS if int(exponent) < 0 else ''}{abs(int(exponent))}"
    return f"{value:g}"
