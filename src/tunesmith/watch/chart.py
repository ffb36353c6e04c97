"""Curves in characters: braille dots, two columns and four rows to a character (Unicode 2800 to 28FF)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.watch.view import Point

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a character's dots: [column][row], from the top."""
LABEL = 7
"""Characters of the scale at the left."""


@dataclass(frozen=True)
class Line:
    """A curve with its style; `level`: a value over the whole width."""

    points: Sequence[Point]
    style: str
    level: bool = False


@dataclass(frozen=True)
class Cell:
    """A character of the chart and the style of the line that drew it last."""

    text: str
    style: str


def draw(lines: Sequence[Line], width: int, height: int) -> list[list[Cell]]:
    """Rows of cells, the scale at their left. Empty where there is nothing to draw, or no room."""
    values = [value for line in lines for _, value in line.points]
    columns = width - LABEL - 1
    if not values or columns < 8 or height < 2:
        return []
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    last = max([1, *(step for line in lines for step, _ in line.points)])
    bits = [[0] * columns for _ in range(height)]
    styles = [[""] * columns for _ in range(height)]

    def mark(x: int, y: int, style: str) -> None:
        bits[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
        styles[y // 4][x // 2] = style

    for line in lines:
        for x, y in _places(line, 2 * columns, 4 * height, last, low, high):
            mark(x, y, line.style)
    rows = []
    for number in range(height):
        value = high - (high - low) * number / max(1, height - 1)
        shown = f"{value:>{LABEL}.3f}" if number in (0, height // 2, height - 1) else " " * LABEL
        cells = [Cell(chr(0x2800 + dots), style) for dots, style in zip(bits[number], styles[number], strict=True)]
        rows.append([Cell(shown + " ", "dim"), *cells])
    return rows


def _places(line: Line, columns: int, rows: int, last: int, low: float, high: float) -> list[tuple[int, int]]:
    """Dots of a line, (column, row from the top). A column with several points shows their mean: noise is averaged."""

    def row(value: float) -> int:
        return min(rows - 1, max(0, round((high - value) / (high - low) * (rows - 1))))

    if line.level:
        return [(x, row(line.points[0][1])) for x in range(0, columns, 4)]
    sums: dict[int, tuple[float, int]] = {}
    for step, value in line.points:
        x = min(columns - 1, int(step / last * (columns - 1)))
        total, count = sums.get(x, (0.0, 0))
        sums[x] = (total + value, count + 1)
    found = [(x, row(total / count)) for x, (total, count) in sorted(sums.items())]
    joined: list[tuple[int, int]] = []
    for (x, y), (next_x, next_y) in zip(found, [*found[1:], found[-1]], strict=True):
        joined.append((x, y))
        steps = max(next_x - x, abs(next_y - y))
        joined += [
            (x + (next_x - x) * step // steps, y + round((next_y - y) * step / steps)) for step in range(1, steps)
        ]
    return joined
