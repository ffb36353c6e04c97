"""The first batch is shown as it is fed: what is learned is marked, private rows are passed over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tunesmith.data.tokens.documents import TokenizedDocuments
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.run.directory import RunDir
from tunesmith.training.first_batch import describe_first_batch


def batches(tokenizer: TextTokenizer, *rows: tuple[str, str]) -> Any:
    """One step of (prompt, completion) documents."""
    documents: list[Any] = []
    for prompt, completion in rows:
        read, learned = tokenizer.encode_batch([prompt, completion])
        ids = [tokenizer.start_id, *read, *learned, tokenizer.end_id]
        documents.append((ids, [False] * (1 + len(read)) + [True] * (len(learned) + 1)))
    made = TokenizedDocuments.from_lists(documents)
    return SimpleNamespace(
        steps=[np.arange(len(rows))],
        documents=made,
        num_fed=lambda step: int(made.lengths[step].sum()) - len(step),
        num_targets=lambda step: int(made.targets_per_document[step].sum()),
    )


def test_what_is_learned_stands_between_marks(tokenizer: TextTokenizer) -> None:
    told = describe_first_batch(batches(tokenizer, ("Who sings?\nSay: ", "A boy."), ("b", "c")), tokenizer)
    assert told.startswith("first step 2 documents, ")
    assert told.split("\n", 1)[1] == ("           <|endoftext|>Who sings?\n           Say: «A boy.<|endoftext|>»")


def test_a_private_document_is_passed_over(tokenizer: TextTokenizer) -> None:
    told = describe_first_batch(batches(tokenizer, ("mail ", "jane@example.org"), ("b", "second")), tokenizer)
    assert "jane" not in told
    assert "«second" in told
    told = describe_first_batch(batches(tokenizer, ("mail ", "jane@example.org")), tokenizer)
    assert "jane" not in told
    assert "none is shown" in told


def test_the_middle_of_a_long_document_is_counted(tokenizer: TextTokenizer) -> None:
    told = describe_first_batch(batches(tokenizer, ("p", "x y " * 300)), tokenizer)
    assert " tokens] «" in told
    assert len(told) < 2000


def test_a_run_logs_it(tiny_run: RunDir) -> None:
    log = (tiny_run.path / "log.txt").read_text(encoding="utf-8")
    assert log.count("first step ") == 1
    assert "shows.csv:" in log
    assert "<|endoftext|>»" in log
