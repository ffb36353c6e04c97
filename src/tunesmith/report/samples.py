"""Samples side by side: each text in pieces, so that the template can mark what was copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from tunesmith.report.numbers import fixed
from tunesmith.run.artefacts import Comparison, Sample, SamplesLine, Wrote

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
MAX_EVALUATIONS = 30
"""Whose texts are shown; of more, evenly spaced ones."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a generated text, and whether it stands in the training rows word by word."""

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
    """Samples under one heading; `more` are folded away at first."""

    title: str
    about: str
    shown: list[SampleView]
    more: list[SampleView]


def while_it_trained(lines: Sequence[SamplesLine]) -> list[SamplesLine]:
    """Evaluations with their texts, the first and the last among them."""
    if len(lines) <= MAX_EVALUATIONS:
        return list(lines)
    places = {round(number * (len(lines) - 1) / (MAX_EVALUATIONS - 1)) for number in range(MAX_EVALUATIONS)}
    return [lines[place] for place in sorted(places)]


def sample_groups(comparison: Comparison | None) -> list[GroupView]:
    """The samples of compare.json by kind; those beyond the first few are folded away."""
    if comparison is None:
        return []
    limit = comparison.settings.max_new_tokens
    groups = []
    for kind, (title, about) in GROUPS.items():
        views = _views([sample for sample in comparison.samples if sample.kind == kind], limit)
        if views:
            groups.append(GroupView(title, about, views[: SHOWN[kind]], views[SHOWN[kind] :]))
    return groups


def _views(found: Sequence[Sample], limit: int) -> list[SampleView]:
    """A view a prompt; a prompt of the recipe that was continued several times is shown once."""
    views: list[SampleView] = []
    for sample in found:
        prompt, row = sample.prompt, _row_name(sample.row)
        sides = [_side(side, wrote, limit) for side in NAMES if (wrote := getattr(sample, side)) is not None]
        if views and prompt and not row and views[-1].prompt == prompt:
            views[-1].times.append(sides)
        else:
            views.append(SampleView(prompt, row, [sides]))
    return views


def _side(look: str, wrote: Wrote, limit: int) -> SideView:
    ending = "ends here" if look == "real" else "ended by itself"
    copied = likeness = nearest_text = ""
    if wrote.copied:
        origin = _row_name(wrote.copied_from.row) if wrote.copied_from is not None else "a training row"
        copied = f"{fixed(wrote.longest_copy, 0)} words in a row from {origin}"
    if look == "tuned" and wrote.nearest is not None:
        likeness = f"nearest training row: {_row_name(wrote.nearest.row)}"
        likeness += f" (likeness {fixed(wrote.nearest.similarity, 2)})"
        nearest_text = wrote.nearest.text[:_LONGEST_TEXT]
    return SideView(
        look,
        NAMES[look],
        split_text(wrote.text, wrote.copied),
        ending if wrote.ended else f"cut at {fixed(limit, 0)} tokens",
        copied,
        likeness,
        nearest_text,
    )


def _row_name(name: str | None) -> str:
    """`data/shows.csv:17` as `shows.csv:17`."""
    return PurePath(name).name if name else ""


def split_text(text: str, spans: Sequence[tuple[int, int]]) -> list[Piece]:
    """`text` cut where copied spans begin and end; spans outside the text are cut to it."""
    pieces, at = [], 0
    for start, end in sorted((max(0, begin), min(len(text), end)) for begin, end in spans):
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
