"""Contrast of the report's colours in each theme: 4.5 : 1 for text (WCAG 2 AA), 3 : 1 for lines of charts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tunesmith.report

STYLE = Path(tunesmith.report.__file__).with_name("style.css").read_text(encoding="utf-8")
TEXT = [
    *(("ink", paper) for paper in ("paper", "card", "mark")),
    *((colour, paper) for colour in ("soft", "link", "tuned", "base", "real") for paper in ("paper", "card")),
    *((level, f"{level}-paper") for level in ("good", "note", "bad")),
    *((level, "card") for level in ("good", "note", "bad")),
]
LINES = [(colour, "card") for colour in ("tuned", "base", "real", "train", "soft")]


def colours(theme: str) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", blocks[["light", "dark", "print"].index(theme)]))


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_matches_the_standards_examples() -> None:
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_and_lines_have_contrast(theme: str) -> None:
    found = colours(theme)
    assert set(colours("light")) - {"link"} <= set(found) | {"link"}
    found = {**colours("light"), **found}
    for pairs, least in ((TEXT, 4.5), (LINES, 3.0)):
        for colour, paper in pairs:
            assert contrast(found[colour], found[paper]) >= least, f"{theme}: {colour} on {paper}"
