"""What an export says in a terminal."""

from __future__ import annotations

from tunesmith.export.card import describe_cost, describe_trip
from tunesmith.run.artefacts import Export
from tunesmith.units import format_bytes


def export_lines(record: Export) -> list[str]:
    """How it did when it was loaded again, what its type costs, and what is in it."""
    cost = describe_cost(record)
    files = [f"{name} ({format_bytes(entry.bytes)})" for name, entry in record.files.items()]
    return [
        *(f"loaded again by {describe_trip(trip)}" for trip in record.round_trips),
        *([cost] if cost else []),
        *record.notes,
        f"files: {', '.join(files[:8])}" + (f" and {len(files) - 8} more" if len(files) > 8 else ""),
    ]
