"""Bytes and seconds as people read them. Bytes are decimal: 1 GB is 10^9 bytes."""

from __future__ import annotations


def format_bytes(num_bytes: float) -> str:
    """`17.3 GB`, `850 MB`, `12 kB`, `186 B`."""
    if abs(num_bytes) >= 1e9:
        return f"{num_bytes / 1e9:,.1f} GB"
    if 0 < abs(num_bytes) < 999_500:
        return f"{num_bytes / 1e3:,.0f} kB" if abs(num_bytes) >= 1e3 else f"{num_bytes:.0f} B"
    return f"{num_bytes / 1e6:,.0f} MB"


def format_seconds(seconds: float) -> str:
    """`45 s`, `6 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes and hours < 100 else f"{hours:,} h"
