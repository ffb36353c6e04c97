"""Samples side by side: each text in pieces, so that the template can mark what was copied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tunesmith.report.numbers import fixed, number

SHOWN = {"prompt": 12, "opening": 4, "unconditional": 4}
GROUPS = {
    "prompt": ("Your prompts", "The prompts of the recipe, each continued several times."),
    "opening": (
        "Openings of held-out rows",
        "The first words of rows that neither model has seen, and how they really go on.",
    ),
    "unconditional": (
        "From nothing",
        "Written without a prompt. Beside them: a real row, for the style; it is no answer to them.",
    ),
}
NAMES = {"base": "Base", "tuned": "Tuned", "real": "Real row"}
_LONGEST_TEXT = 6000


@dataclass(frozen=True)
class Piece:
    text: str
    copied: bool


@dataclass(frozen=True)
class SideView:
    """What one side wrote."""

    look: str
    name: str
    pieces: list[Piece]
    ending: str
    copied: str
    """Which training row the copied span comes from; empty when nothing was copied."""
    nearest: str
    """Name of the training row most like the tuned model's text, and how like."""
    nearest_text: str


@dataclass(frozen=True)
class SampleView:
    """A prompt and what was written for it, once or several times."""

    prompt: str
    row: str
    times: list[list[SideView]]


@dataclass(frozen=True)
class GroupView:
    title: str
    about: str
    shown: list[SampleView]
    more: list[SampleView]


def sample_groups(comparison: dict[str, Any]) -> list[GroupView]:
    """The samples of compare.json by kind; those beyond the first few are folded away."""
    limit = number((comparison.get("settings") or {}).get("max_new_tokens"))
    groups = []
    for kind, (title, about) in GROUPS.items():
        views = _views([sample for sample in comparison.get("samples") or [] if sample.get("kind") == kind], limit)
        if views:
            groups.append(GroupView(title, about, views[: SHOWN[kind]], views[SHOWN[kind] :]))
    return groups


def _views(found: list[dict[str, Any]], limit: float | None) -> list[SampleView]:
    """A view a prompt; a prompt of the recipe that was continued several times is shown once."""
    views: list[SampleView] = []
    for sample in found:
        prompt, row = str(sample.get("prompt") or ""), _row_name(sample.get("row"))
        sides = [_side(side, sample[side], limit) for side in NAMES if sample.get(side)]
        if views and prompt and not row and views[-1].prompt == prompt:
            views[-1].times.append(sides)
        else:
            views.append(SampleView(prompt, row, [sides]))
    return views


def _side(look: str, side: dict[str, Any], limit: float | None) -> SideView:
    cut = f"cut at {fixed(limit, 0)} tokens" if limit is not None else "cut at the limit"
    ending = ("ends here" if look == "real" else "ended by itself") if side.get("ended") else cut
    source, copied = side.get("copied_from") or {}, ""
    if side.get("copied"):
        origin = _row_name(source.get("row")) or "a training row"
        copied = f"{fixed(side.get('longest_copy'), 0)} words in a row from {origin}"
    nearest = (side.get("nearest") or {}) if look == "tuned" else {}
    likeness = f"nearest training row: {_row_name(nearest['row'])}" if nearest.get("row") else ""
    if likeness:
        likeness += f" (likeness {fixed(nearest.get('similarity'), 2)})"
    return SideView(
        look,
        NAMES[look],
        split_text(str(side.get("text") or ""), side.get("copied") or []),
        ending,
        copied,
        likeness,
        str(nearest.get("text") or "")[:_LONGEST_TEXT],
    )


def _row_name(name: Any) -> str:
    """`data/shows.csv:17` as `shows.csv:17`."""
    return PurePath(str(name)).name if name else ""


def split_text(text: str, spans: list[list[int]]) -> list[Piece]:
    """`text` cut where copied spans begin and end; spans outside the text are cut to it."""
    pieces, at = [], 0
    for start, end in sorted((max(0, int(span[0])), min(len(text), int(span[1]))) for span in spans):
        start = max(start, at)
        if end <= start:
            continue
        if start > at:
            pieces.append(Piece(text[at:start], False))
        pieces.append(Piece(text[start:end], True))
        at = end
    if at < len(text) or not pieces:
        pieces.append(Piece(text[at:], False))
    return pieces
