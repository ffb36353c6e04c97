"""Is this data fit to train on? Numbered findings, each blocks, warns or fine, with the number and what to set.

It looks at what the model will see, after reading, splitting and tokenising. Counts of rows and tokens cover all of the
data; checks that read text look at a sample of at most 20,000 documents or 20 million bytes, and say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from tunesmith.audit import rows as audit_rows
from tunesmith.audit import tokens as audit_tokens
from tunesmith.audit.examples import choose_examples, document_text
from tunesmith.audit.findings import AuditReport
from tunesmith.audit.rows import Text
from tunesmith.audit.text import scan_texts
from tunesmith.data.tokens.documents import Data, TokenizedDocuments
from tunesmith.data.tokens.long import vocabulary_bytes
from tunesmith.models.positions import document_length, positions_of
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import DataSection, Recipe
from tunesmith.run.artefacts import Finding

MAX_DOCUMENTS = 20_000
MAX_BYTES = 20_000_000
MAX_TOKENISED = 2_000
PASS_DOCUMENTS = 1_000


def audit_recipe(recipe: Recipe, *, small: bool = False, progress: Callable[..., None] | None = None) -> AuditReport:
    """What `tunesmith data RECIPE` shows: prepares the recipe's data as training would, and audits it.

    Raises DataError when the data cannot be read, ModelError when the model's tokenizer cannot be found.
    """
    from tunesmith.data.prepare import prepare
    from tunesmith.models.grow import find_asked
    from tunesmith.models.tokenizer import load_tokenizer

    source = find_asked(recipe.model)
    tokenizer, positions = load_tokenizer(source), positions_of(source)
    max_length = document_length(recipe.train.max_length, positions)
    data = prepare(recipe.data, tokenizer, max_length, small=small, progress=progress)
    return audit(data, tokenizer, recipe.data, max_length, positions)


def audit(
    data: Data, tokenizer: TextTokenizer, section: DataSection, max_length: int, positions: int | None = None
) -> AuditReport:
    """Audit prepared data. `report.check()` raises DataError when training must not start.

    positions: tokens that the model can read, where it says so.
    """
    begin = time.perf_counter()
    vocabulary = vocabulary_bytes(tokenizer.backend)
    samples = _sample(data)
    texts = [text for documents, places in samples for text in _texts(documents, places, tokenizer, data)]
    num_documents = len(data.train) + len(data.eval) + len(data.test)
    sampled = "" if len(texts) == num_documents else f" (in a sample of {len(texts):,} documents)"
    train_places = samples[0][1][:: max(1, -(-len(samples[0][1]) // MAX_TOKENISED))]
    controls = tokenizer.control_tokens
    is_chat = data.account.kind == "chat"  # a chat template writes them itself
    scan = scan_texts(((text.row, text.text) for text in texts), () if is_chat else controls, chat=is_chat)
    near, leakage = audit_rows.check_near_duplicates(data, section, texts)
    findings = [
        audit_rows.check_rows(data),
        audit_rows.check_held_out(data),
        audit_rows.check_encoding(data),
        audit_rows.check_language(texts, controls),
        audit_rows.check_empty(data, section),
        audit_rows.check_duplicates(data, texts),
        _said(near, sampled),
        _said(leakage, sampled),
        audit_tokens.check_lengths(data, max_length, positions),
        audit_tokens.check_long(data, section, max_length),
        audit_tokens.check_supervised(data),
        audit_tokens.check_end(data, tokenizer),
        audit_tokens.check_padding(data, max_length),
        audit_tokens.check_tokenisation(data.train, train_places, tokenizer, vocabulary),
        audit_rows.check_markers(scan, data.account.chat, sampled),
        *audit_rows.check_texts(scan, sampled),
    ]
    return AuditReport(
        findings=tuple(
            finding.model_copy(update={"number": number}) for number, finding in enumerate(findings, start=1)
        ),
        examples=tuple(choose_examples(data.train, tokenizer, vocabulary)),
        histogram=data.account.length_histogram,
        num_documents=num_documents,
        num_sampled=len(texts),
        seconds=time.perf_counter() - begin,
    )


def _sample(data: Data) -> list[tuple[TokenizedDocuments, NDArray[np.int64]]]:
    """Evenly spaced documents of each split, in proportion; every split that has any gives at least one."""
    splits = (data.train, data.eval, data.test)
    num_documents = sum(map(len, splits))
    num_bytes = sum(int(documents.num_bytes.sum()) for documents in splits)
    share = min(1.0, MAX_DOCUMENTS / max(1, num_documents), MAX_BYTES / max(1, num_bytes))
    return [(documents, _evenly(len(documents), share)) for documents in splits]


def _texts(
    documents: TokenizedDocuments, places: NDArray[np.int64], tokenizer: TextTokenizer, data: Data
) -> Iterator[Text]:
    for number, index in enumerate(places.tolist()):
        if number % PASS_DOCUMENTS == 0:
            documents.let_go()
        begin = None if documents.origins is None else int(documents.origins.spans[index, 0])
        text = document_text(documents, index, tokenizer)
        yield Text(documents.row_name(index), text, documents is data.train, begin)


def _evenly(num_documents: int, share: float) -> NDArray[np.int64]:
    wanted = -(-int(num_documents * share * 1e6) // 1_000_000)
    return np.linspace(0, num_documents - 1, num=min(num_documents, max(wanted, 1)), dtype=np.int64)


def _said(finding: Finding, sampled: str) -> Finding:
    return finding.model_copy(update={"found": finding.found.rstrip(".") + sampled + "."}) if sampled else finding
