"""What base, tuned and the real rows hold for each prompt, and what of it stands in the training rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from tunesmith.compare.copying import Copied, Nearest, NearestRows, find_copies
from tunesmith.compare.prompts import Prompt, document_text
from tunesmith.compare.scores import Writing
from tunesmith.redact import redact
from tunesmith.run.artefacts import NamedRow, Sample, Wrote

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
        self._searched = range(0, len(self), max(1, -(-len(self) // MAX_NEAREST_ROWS)))

    def __len__(self) -> int:
        return len(self.documents) if self.documents is not None else 0

    def text(self, index: int) -> str:
        assert self.documents is not None
        return document_text(self.documents, index, self.tokenizer)

    def named(self, index: int, similarity: float | None = None) -> NamedRow:
        """The row as compare.json holds it."""
        assert self.documents is not None
        return NamedRow(row=self.documents.row_name(index), text=redact(self.text(index)), similarity=similarity)

    def copies(self, texts: Sequence[str]) -> list[Copied]:
        return find_copies(texts, (self.text(index) for index in range(len(self))))

    def nearest(self, texts: Sequence[str]) -> list[Nearest | None]:
        """Looked for in evenly spaced rows when there are more than `MAX_NEAREST_ROWS`."""
        found = self._by_words.nearest(texts)
        return [Nearest(self._searched[near.row], near.similarity) if near else None for near in found]

    @cached_property
    def _by_words(self) -> NearestRows:
        return NearestRows([self.text(index) for index in self._searched])


def collect_samples(
    prompts: Sequence[Prompt], base: Sequence[Generation], tuned: Sequence[Generation], rows: TrainingRows
) -> tuple[Sample, ...]:
    """Put the three sides together and look all their texts up in the training rows at once."""
    texts: list[tuple[str, bool]] = []
    for prompt, first, second in zip(prompts, base, tuned, strict=True):
        texts += [(first.text, first.ended), (second.text, second.ended)]
        if prompt.real is not None:
            texts.append((prompt.real, prompt.real_ended))
    wrote = iter(look_up(texts, rows))
    return tuple(
        Sample(
            kind=prompt.kind,
            prompt=prompt.text,
            row=prompt.row,
            base=next(wrote),
            tuned=next(wrote),
            real=next(wrote) if prompt.real is not None else None,
        )
        for prompt in prompts
    )


def look_up(texts: Sequence[tuple[str, bool]], rows: TrainingRows) -> Iterator[Wrote]:
    """What each text, ended by itself or not, shares with the training rows."""
    looked_up = [text for text, _ in texts]
    for (text, ended), copied, nearest in zip(texts, rows.copies(looked_up), rows.nearest(looked_up), strict=True):
        source = copied.longest_row if copied.spans else None
        yield Wrote(
            text=text,
            ended=ended,
            copied=copied.spans,
            copied_share=copied.share,
            longest_copy=copied.longest,
            copied_from=rows.named(source) if source is not None else None,
            nearest=rows.named(nearest.row, nearest.similarity) if nearest else None,
        )


def writings(samples: Sequence[Sample]) -> dict[Side, Writing]:
    """Each side's texts for the prompts whose real continuation is known, ready to be scored."""
    scored = [(sample.base, sample.tuned, sample.real) for sample in samples if sample.real is not None]
    sides: tuple[Side, ...] = ("base", "tuned", "real")
    return {side: _writing([wrote[place] for wrote in scored]) for place, side in enumerate(sides)}


def _writing(wrote: Sequence[Wrote]) -> Writing:
    return Writing(
        [one.text for one in wrote],
        [one.ended for one in wrote],
        [Copied(one.longest_copy, None, one.copied, one.copied_share) for one in wrote],
        [(one.nearest.similarity or 0.0) if one.nearest else 0.0 for one in wrote],
    )
