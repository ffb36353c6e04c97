"""What base, tuned and the real rows hold for each prompt, and what of it stands in the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.compare.copying import Copied, Nearest, find_copies, find_nearest
from tunesmith.compare.prompts import Prompt, document_text
from tunesmith.compare.scores import Writing
from tunesmith.redact import redact

if TYPE_CHECKING:
    from tunesmith.data.tokens.documents import TokenizedDocuments
    from tunesmith.generate.text import Generation
    from tunesmith.models.tokenizer import TextTokenizer

MAX_NEAREST_ROWS = 100_000
"""Training rows in which the nearest one is looked for; copied spans are looked for in all."""
Side = Literal["base", "tuned", "real"]


class TrainingRows:
    """The texts of the training rows and their names."""

    def __init__(self, documents: TokenizedDocuments | None, tokenizer: TextTokenizer) -> None:
        self.documents, self.tokenizer = documents, tokenizer

    def __len__(self) -> int:
        return len(self.documents) if self.documents is not None else 0

    def text(self, index: int) -> str:
        assert self.documents is not None
        return document_text(self.documents, index, self.tokenizer)

    def named(self, index: int) -> dict[str, Any]:
        """The row as compare.json holds it."""
        assert self.documents is not None
        return {"row": self.documents.row_name(index), "text": redact(self.text(index))}

    def copies(self, texts: Sequence[str]) -> list[Copied]:
        return find_copies(texts, (self.text(index) for index in range(len(self))))

    def nearest(self, texts: Sequence[str]) -> list[Nearest | None]:
        """Looked for in evenly spaced rows when there are more than `MAX_NEAREST_ROWS`."""
        searched = range(0, len(self), max(1, -(-len(self) // MAX_NEAREST_ROWS)))
        found = find_nearest(texts, [self.text(index) for index in searched])
        return [Nearest(searched[near.row], near.similarity) if near else None for near in found]


@dataclass(frozen=True)
class Wrote:
    """One text of one side. `text` does not repeat the prompt."""

    text: str
    ended: bool
    copied: Copied
    nearest: Nearest | None

    def to_json(self, rows: TrainingRows) -> dict[str, Any]:
        source = self.copied.longest_row if self.copied.spans else None
        return {
            "text": self.text,
            "ended": self.ended,
            "copied": [list(span) for span in self.copied.spans],
            "copied_share": self.copied.share,
            "longest_copy": self.copied.longest,
            "copied_from": rows.named(source) if source is not None else None,
            "nearest": {**rows.named(self.nearest.row), "similarity": self.nearest.similarity}
            if self.nearest
            else None,
        }


@dataclass(frozen=True)
class Sample:
    """One prompt and what each side put after it; `real` is None for a prompt of the recipe."""

    prompt: Prompt
    sides: dict[Side, Wrote]

    def to_json(self, rows: TrainingRows) -> dict[str, Any]:
        written: dict[str, Any] = {side: wrote.to_json(rows) for side, wrote in self.sides.items()}
        prompt = {"kind": self.prompt.kind, "prompt": self.prompt.text, "row": self.prompt.row}
        return {**prompt, "real": None, **written}


def collect_samples(
    prompts: Sequence[Prompt], base: Sequence[Generation], tuned: Sequence[Generation], rows: TrainingRows
) -> list[Sample]:
    """Put the three sides together and look all their texts up in the training rows at once."""
    texts: list[tuple[int, Side, str, bool]] = []
    for number, (prompt, first, second) in enumerate(zip(prompts, base, tuned, strict=True)):
        texts += [(number, "base", first.text, first.ended), (number, "tuned", second.text, second.ended)]
        if prompt.real is not None:
            texts.append((number, "real", prompt.real, prompt.real_ended))
    samples = [Sample(prompt, {}) for prompt in prompts]
    looked_up = [text for _, _, text, _ in texts]
    for (number, side, text, ended), copied, nearest in zip(
        texts, rows.copies(looked_up), rows.nearest(looked_up), strict=True
    ):
        samples[number].sides[side] = Wrote(text, ended, copied, nearest)
    return samples


def writings(samples: Sequence[Sample]) -> dict[Side, Writing]:
    """Each side's texts for the prompts whose real continuation is known, ready to be scored."""
    scored = [sample.sides for sample in samples if sample.prompt.real is not None]
    sides: tuple[Side, ...] = ("base", "tuned", "real")
    return {
        side: Writing(
            [wrote[side].text for wrote in scored],
            [wrote[side].ended for wrote in scored],
            [wrote[side].copied for wrote in scored],
            [near.similarity if (near := wrote[side].nearest) else 0.0 for wrote in scored],
        )
        for side in sides
    }
