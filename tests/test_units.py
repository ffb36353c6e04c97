"""Bytes and seconds as people read them."""

from __future__ import annotations

import pytest

from tunesmith.units import format_bytes, format_seconds


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 MB"),
        (186, "186 B"),
        (12_345, "12 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (850e6, "850 MB"),
        (999.4e6, "999 MB"),
        (1e9, "1.0 GB"),
        (17.3e9, "17.3 GB"),
        (-2.5e12, "-2,500.0 GB"),
    ],
)
def test_bytes(num_bytes: float, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (89.4 * 60, "89 min"),
        (80 * 60 + 3600, "2 h 20 min"),
        (3 * 3600, "3 h"),
        (100 * 3600 + 1800, "100 h"),
        (12_000 * 3600, "12,000 h"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
