"""Units as the plan writes them; they live in `tunesmith.units`, which needs no torch."""

from tunesmith.units import format_bytes, format_seconds

__all__ = ["format_bytes", "format_seconds"]
