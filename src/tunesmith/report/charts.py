"""Vector charts as inline SVG: no script, no style attribute, colours from the page's classes (light, dark, print).

A chart is a `Markup` string. Every text that goes into one is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith.report.numbers import number
from tunesmith.run.artefacts import Interval

MAX_POINTS = 400
MIN_CURVE = 3
"""Points that a line goes through; between two nothing was seen."""
_CHARACTER = 6.4
"""Width of an average character of the tick labels."""
_LABEL_GAP = 15.0

Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """A line of a chart. `look` is its class: train, eval, base, plain."""

    name: str
    points: Sequence[Point]
    look: str = "plain"
    markers: bool = False
    faint: Sequence[Point] = ()
    """The same values before smoothing, drawn behind."""
    marked: Sequence[Point] = ()
    """Those of them that stand out, drawn as circles."""
    joined: bool = True
    """A line goes through the points; False: circles alone."""


@dataclass(frozen=True)
class Dot:
    """A value with its interval on a row of a dot chart."""

    value: float
    low: float
    high: float
    look: str

    @classmethod
    def of(cls, interval: Interval | None, look: str) -> Dot | None:
        """None without a value; where low or high is missing, the value stands for it."""
        value = number(interval.value) if interval is not None else None
        if interval is None or value is None:
            return None
        low, high = number(interval.low), number(interval.high)
        return cls(value, value if low is None else low, value if high is None else high, look)


@dataclass(frozen=True)
class _Frame:
    """The plot area and its scales."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / ((high - low) or 1) * (self.height - self.top - self.bottom)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    y_format: Format,
    x_label: str = "step",
    x_format: Format | None = None,
    size: tuple[float, float] = (420, 250),
    baseline: tuple[float, str] | None = None,
    from_zero: bool = False,
) -> Markup:
    """Lines over steps. `baseline`: a dashed level with its name. Names stand at the ends of the lines.

    x_format: of ticks that need not be whole numbers, where x is no step.
    """
    shown = [line for line in series if line.points or line.marked]
    values = [y for line in shown for _, y in (*line.points, *line.faint, *line.marked)] + (
        [baseline[0]] if baseline else []
    )
    steps = [x for line in shown for x, _ in (*line.points, *line.marked)]
    if not steps:
        return Markup("")
    y_ticks = nice_ticks(min(values, default=0) if not from_zero else min(0, *values), max(values), 5)
    x_low, x_high = min(steps), max(steps)
    names = [line.name for line in shown if line.name] + ([baseline[1]] if baseline else [])
    frame = _Frame(
        *size,
        left=10 + _CHARACTER * max(len(y_format(tick)) for tick in y_ticks),
        right=14 + 6.8 * max((len(name) for name in names), default=0),
        top=12,
        bottom=38,
        x_range=(x_low, x_high if x_high > x_low else x_low + 1),
        y_range=(y_ticks[0], y_ticks[-1]),
    )
    parts = [_grid(frame, y_ticks, y_format, x_label, x_format)]
    ends: list[tuple[float, str, str]] = []
    if baseline is not None:
        level = frame.y(baseline[0])
        parts.append(
            Markup('<line class="line base" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                _n(frame.left), _n(frame.width - frame.right), _n(level), _n(level)
            )
        )
        ends.append((level, baseline[1], "base"))
    for line in shown:
        parts.append(_line(frame, line))
        if line.name and line.points:
            ends.append((frame.y(line.points[-1][1]), line.name, line.look))
    parts += _end_labels(frame, ends)
    return _svg(size, title, description, parts)


def dot_chart(
    rows: Sequence[tuple[str, Sequence[Dot]]],
    *,
    title: str,
    description: str,
    x_format: Format,
    x_label: str,
    zero: bool = False,
    width: float = 420,
) -> Markup:
    """One row a name; dots with whiskers on a common scale. `zero`: draw a line at 0 and keep it in view."""
    if not rows:
        return Markup("")
    row_height, top, bottom = 25.0, 6.0, 40.0
    edges = [edge for _, dots in rows for dot in dots for edge in (dot.low, dot.high, dot.value)]
    ticks = nice_ticks(min([*edges, *([0.0] if zero else [])]), max([*edges, *([0.0] if zero else [])]), 4)
    names = [_shorten(name, 26) for name, _ in rows]
    height = top + bottom + row_height * len(rows)
    left = min(16 + 6.6 * max(map(len, names)), width * 0.5)
    frame = _Frame(width, height, left, 24, top, bottom, (ticks[0], ticks[-1]), (0, 1))
    base = height - bottom
    parts = [
        Markup(
            '<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text x="{0}" y="{3}" class="mid">{4}</text>'
        ).format(_n(frame.x(tick)), _n(top), _n(base), _n(base + 15), x_format(tick))
        for tick in ticks
    ]
    if zero:
        parts.append(
            Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(_n(frame.x(0)), _n(top), _n(base))
        )
    for index, ((_, dots), name) in enumerate(zip(rows, names, strict=True)):
        middle = top + row_height * (index + 0.5)
        parts.append(Markup('<text x="{}" y="{}" class="end">{}</text>').format(_n(left - 8), _n(middle + 4), name))
        spread = 7.0 if len(dots) > 1 else 0.0
        for position, dot in enumerate(dots):
            parts.append(_dot(frame, dot, middle + spread * (position - (len(dots) - 1) / 2)))
    parts.append(_axis_label(frame, x_label))
    return _svg((width, height), title, description, parts)


def strip(dots: Sequence[Dot], *, description: str, bounds: tuple[float, float] | None = None) -> Markup:
    """Dots without axes, for a cell of a table. `bounds`: the ends of the scale; by default those of the dots."""
    if not dots:
        return Markup("")
    edges = [edge for dot in dots for edge in (dot.low, dot.high, dot.value)]
    low, high = bounds or (min(edges), max(edges))
    height = 9.0 * len(dots) + 7
    frame = _Frame(170, height, 8, 8, 0, 0, (low, high if high > low else low + 1), (0, 1))
    rail = [
        Markup('<line class="grid" x1="8" x2="162" y1="{0}" y2="{0}"/>').format(_n(8 + 9.0 * row))
        for row in range(len(dots))
    ]
    drawn = [_dot(frame, dot, 8 + 9.0 * row) for row, dot in enumerate(dots)]
    return _svg((170, height), "", description, [*rail, *drawn], look="strip")


def histogram(
    bins: Sequence[tuple[str, float]], *, title: str, description: str, x_label: str, width: float = 420
) -> Markup:
    """Bars with a name each; every second or third name is left out where they would touch."""
    if not bins:
        return Markup("")
    size = (width, 190.0)
    ticks = nice_ticks(0, max(count for _, count in bins), 4)
    frame = _Frame(
        *size,
        left=12 + _CHARACTER * max(len(whole(tick)) for tick in ticks),
        right=10,
        top=12,
        bottom=38,
        x_range=(0, len(bins)),
        y_range=(0, ticks[-1]),
    )
    parts = [_y_grid(frame, ticks, whole)]
    step = frame.x(1) - frame.x(0)
    every = max(1, math.ceil((_CHARACTER * max(len(name) for name, _ in bins) + 8) / step))
    for index, (name, count) in enumerate(bins):
        top = frame.y(count)
        parts.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
                _n(frame.x(index) + step * 0.08), _n(top), _n(step * 0.84), _n(frame.y(0) - top)
            )
        )
        if index % every == 0:
            parts.append(
                Markup('<text x="{}" y="{}" class="mid">{}</text>').format(
                    _n(frame.x(index + 0.5)), _n(frame.y(0) + 15), name
                )
            )
    parts.append(_axis_label(frame, x_label))
    return _svg(size, title, description, parts)


def smooth(points: Sequence[Point], *, span: int = 20) -> list[Point]:
    """Exponential moving average with the start-up bias removed; the points themselves when there are few."""
    if len(points) < span:
        return list(points)
    keep = 1 - 2 / (span / 2 + 1)
    level, weight, smoothed = 0.0, 0.0, []
    for x, y in points:
        level, weight = keep * level + (1 - keep) * y, keep * weight + (1 - keep)
        smoothed.append((x, level / weight))
    return smoothed


def thin(points: Sequence[Point]) -> list[Point]:
    """At most `MAX_POINTS` points: the lowest and highest of each stretch, so that no spike is lost."""
    if len(points) <= MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MAX_POINTS // 2))
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return kept


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers whose first and last enclose low and high."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return [0.0, 1.0]
    if high <= low:
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread / 2, high + spread / 2
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def whole(value: float) -> str:
    """`12,345`."""
    return f"{value:,.0f}"


def _line(frame: _Frame, line: Series) -> Markup:
    parts, curve = [], line.joined and len(line.points) >= MIN_CURVE
    if line.faint and curve:
        parts.append(Markup('<path class="line faint {}" d="{}"/>').format(line.look, _path(frame, thin(line.faint))))
    points = thin(line.points)
    if curve:
        parts.append(Markup('<path class="line {}" d="{}"/>').format(line.look, _path(frame, points)))
    circled = [*(points if line.markers or not curve else ()), *line.marked]
    parts += [
        Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.2"/>').format(line.look, _n(frame.x(x)), _n(frame.y(y)))
        for x, y in circled
    ]
    return Markup("").join(parts)


def _path(frame: _Frame, points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{_n(frame.x(x))} {_n(frame.y(y))}" for x, y in points)


def _dot(frame: _Frame, dot: Dot, y: float) -> Markup:
    whisker = Markup('<line class="whisker {}" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
        dot.look, _n(frame.x(dot.low)), _n(frame.x(dot.high)), y=_n(y)
    )
    x = frame.x(dot.value)
    if dot.look == "real":  # a diamond: the three sides differ in shape too, not in colour alone
        corners = f"{_n(x - 4.4)},{_n(y)} {_n(x)},{_n(y - 4.4)} {_n(x + 4.4)},{_n(y)} {_n(x)},{_n(y + 4.4)}"
        return whisker + Markup('<polygon class="dot real" points="{}"/>').format(corners)
    return whisker + Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.6"/>').format(dot.look, _n(x), _n(y))


def _grid(
    frame: _Frame, y_ticks: Sequence[float], y_format: Format, x_label: str, x_format: Format | None = None
) -> Markup:
    low, high = frame.x_range
    x_ticks = [tick for tick in nice_ticks(low, high, 4) if low <= tick <= high and (x_format or tick == int(tick))]
    parts = [_y_grid(frame, y_ticks, y_format)]
    parts += [
        Markup('<text x="{}" y="{}" class="mid">{}</text>').format(
            _n(frame.x(tick)), _n(frame.y(frame.y_range[0]) + 15), (x_format or whole)(tick)
        )
        for tick in x_ticks
    ]
    parts.append(_axis_label(frame, x_label))
    return Markup("").join(parts)


def _y_grid(frame: _Frame, ticks: Sequence[float], tick_format: Format) -> Markup:
    return Markup("").join(
        Markup('<line class="{}" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text x="{}" y="{}" class="end">{}</text>').format(
            "axis" if index == 0 else "grid",
            _n(frame.left),
            _n(frame.width - frame.right),
            _n(frame.left - 6),
            _n(frame.y(tick) + 4),
            tick_format(tick),
            y=_n(frame.y(tick)),
        )
        for index, tick in enumerate(ticks)
    )


def _axis_label(frame: _Frame, label: str) -> Markup:
    middle = (frame.left + frame.width - frame.right) / 2
    return Markup('<text x="{}" y="{}" class="mid name">{}</text>').format(_n(middle), _n(frame.height - 5), label)


def _end_labels(frame: _Frame, ends: Sequence[tuple[float, str, str]]) -> list[Markup]:
    """Names at the right ends of lines, pushed apart where they would overlap."""
    placed: list[tuple[float, str, str]] = []
    for y, name, look in sorted(ends):
        at = max(y, placed[-1][0] + _LABEL_GAP) if placed else max(y, frame.top + 4)
        placed.append((at, name, look))
    lowest = frame.height - frame.bottom
    overflow = placed[-1][0] - lowest if placed else 0.0
    shift = max(0.0, overflow)
    x = _n(frame.width - frame.right + 7)
    return [
        Markup('<text class="label {}" x="{}" y="{}">{}</text>').format(look, x, _n(y - shift + 4), name)
        for y, name, look in placed
    ]


def _svg(size: tuple[float, float], title: str, description: str, parts: Sequence[Markup], *, look: str = "") -> Markup:
    """`title` and `description` are what a screen reader says instead of the picture."""
    label = f"{title}. {description}" if title else description
    return Markup('<svg class="chart {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        look, _n(size[0]), _n(size[1]), label, Markup("").join(parts)
    )


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
