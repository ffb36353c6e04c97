"""The general texts that ship with tunesmith: what a model should still be good at after fine-tuning."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tunesmith.data.tokens.documents import TokenizedDocuments
    from tunesmith.models.tokenizer import TextTokenizer

PASSAGES = Path(__file__).parents[1] / "assets" / "general" / "passages.jsonl"


@dataclass(frozen=True)
class Passage:
    """A text of general English that no run trains on; its loss tells what was forgotten."""

    kind: str
    text: str


def general_passages() -> list[Passage]:
    """Forty short passages of eight kinds; see assets/general/README.md."""
    with PASSAGES.open(encoding="utf-8") as file:
        return [Passage(**json.loads(line)) for line in file]


def general_documents(tokenizer: TextTokenizer) -> TokenizedDocuments:
    """The passages as documents; `slices` holds their kinds."""
    from tunesmith.data.tokens.documents import TokenizedDocuments

    passages = general_passages()
    ids = tokenizer.encode_batch([passage.text for passage in passages])
    documents = TokenizedDocuments.from_lists([([tokenizer.start_id, *text, tokenizer.end_id], None) for text in ids])
    num_bytes = np.array([len(passage.text.encode()) for passage in passages], np.int64)
    return replace(documents, num_bytes=num_bytes, slices=[passage.kind for passage in passages])
