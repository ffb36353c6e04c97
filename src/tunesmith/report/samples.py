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
    nearest_text: str


@dataclass(frozen=True)
class SampleView:
    prompt: str
    row: str
    sides: list[SideView]


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
        views = [_view(sample, limit) for sample in comparison.get("samples") or [] if sample.get("kind") == kind]
        if views:
            groups.append(GroupView(title, about, views[: SHOWN[kind]], views[SHOWN[kind] :]))
    return groups


def _view(sample: dict[str, Any], limit: float | None) -> SampleView:
    sides = [_side(side, sample[side], limit) for side in NAMES if sample.get(side)]
    return SampleView(str(sample.get("prompt") or ""), _row_name(sample.get("row")), sides)


def _side(look: str, side: dict[str, Any], limit: float | None) -> SideView:
    cut = f"cut at {fixed(limit, 0)} tokens" if limit is not None else "cut at the limit"
    ending = ("ends here" if look == "real" else "ended by itself") if side.get("ended") else cut
    source, nearest = side.get("copied_from") or {}, side.get("nearest") or {}
    copied = ""
    if side.get("copied"):
        copied = f"{fixed(side.get('longest_copy'), 0)} words in a row from {_row_name(source.get('row')) or 'a training row'}"
    likeness = (
        f"nearest training row: {_row_name(nearest.get('row'))} (likeness {fixed(nearest.get('similarity'), 2)})" if nearest else ""
    )
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
