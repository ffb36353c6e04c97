"""Checks of the token arrays: lengths, what is cut, what is learned, the end token, padding, how the text tokenises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.audit.examples import document_text
from tunesmith.audit.findings import counted
from tunesmith.data.tokens.documents import Data, TokenizedDocuments
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import DataSection
from tunesmith.run.artefacts import Finding

LEAST_SUPERVISED_SHARE = 0.01
MOST_TOKENS_PER_WORD = 3.0
MOST_BYTE_PIECES = 0.1
MOST_UNKNOWN = 0.001
USUAL_LENGTH = 2048
USUAL_BATCH = 8
_LONGEST_WORDS = 15  # characters per white space above which a script is not written in words


def check_lengths(data: Data, max_length: int, positions: int | None = None) -> Finding:
    """How long documents are, and whether the model can read the longest of any split."""
    longest = max(
        (part for part in (data.train, data.eval, data.test) if len(part)), key=lambda part: part.lengths.max()
    )
    number = int(longest.lengths.argmax())
    tokens = int(longest.lengths[number])
    if positions is not None and tokens - 1 > positions:
        return Finding(
            name="length",
            status="blocks",
            found=f"{longest.row_name(number)} has {tokens:,} tokens; the model reads at most {positions:,}.",
            value=tokens,
            limit=positions,
            option=f"train.max_length: {positions} or less, or auto",
        )
    lengths = data.train.lengths
    low, median, high = (int(value) for value in np.percentile(lengths, [5, 50, 95]))
    found = (
        f"{median} tokens in the middle document, {low} to {high} in nine of ten, {int(lengths.max())} in the longest; "
        f"{int(lengths.sum()):,} in all"
    )
    return Finding(name="length", status="fine", found=found + ".", value=int(lengths.max()), limit=max_length)


def check_long(data: Data, section: DataSection, max_length: int) -> Finding:
    """Documents longer than `max_length` tokens, and what data.long does with them."""
    long = data.account.long
    if not long.num_long:
        return Finding(
            name="cut",
            status="fine",
            found=f"no document is longer than {max_length} tokens.",
            value=0,
            limit=max_length,
        )
    over = f"longer than {max_length} tokens: {long.num_long:,} of {counted(long.num_documents, 'document')}"
    lost = long.lost_targets
    if section.long == "split":
        found = f"{over}, split into {counted(long.num_pieces, 'piece')}. Nothing is lost"
        if long.unread_tokens:
            found += f" of what is learned; of the prompts, {long.unread_tokens:,} tokens are not read."
            option = "a larger train.max_length, or shorter prompts"
            return Finding(name="cut", status="warns", found=found, value=long.unread_tokens, limit=0, option=option)
        found += f"; {long.context_tokens:,} tokens are read twice, as context."
        return Finding(name="cut", status="fine", found=found, value=0, limit=max_length)
    share = lost / max(1, lost + _num_targets(data))
    what = "cut at that length" if section.long == "truncate" else "left out"
    dropped = f" {long.num_dropped:,} rows are gone." if long.num_dropped else ""
    found = f"{over}, {what}: {lost:,} tokens ({share:.1%}) are not trained.{dropped}"
    return Finding(
        name="cut",
        status="warns",
        found=found,
        value=lost,
        limit=0,
        option="data.long: split, or a larger train.max_length",
    )


def _num_targets(data: Data) -> int:
    return sum(documents.num_targets for documents in (data.train, data.eval, data.test))


def check_supervised(data: Data) -> Finding:
    """The share of the tokens that is learned, and documents of which nothing is."""
    train = data.train
    share = train.num_targets / max(1, len(train.tokens))
    without = np.flatnonzero(train.targets_per_document == 0)
    found = f"{train.num_targets:,} of {len(train.tokens):,} tokens ({share:.1%}) are learned"
    rows = tuple(train.row_name(int(index)) for index in without[:5])
    if train.num_targets == 0:
        found += ": nothing would be trained. Choose columns that hold the text to learn."
        return Finding(
            name="learned",
            status="blocks",
            found=found,
            value=0,
            limit=LEAST_SUPERVISED_SHARE,
            option="data.text or data.completion",
            rows=rows,
        )
    empty = data.account.chat.met.get("empty_turns") if data.account.chat is not None else None
    if empty is not None:
        found += f"; {counted(empty.num_rows, 'conversation')} with an assistant turn that says nothing: "
        found += "its end alone is learned."
        return Finding(
            name="learned",
            status="warns",
            found=found,
            value=share,
            limit=LEAST_SUPERVISED_SHARE,
            option="train: false on these turns, or leave them out",
            rows=empty.rows,
        )
    if len(without):
        found += f"; {len(without):,} documents hold none."
        return Finding(
            name="learned",
            status="warns",
            found=found,
            value=share,
            limit=LEAST_SUPERVISED_SHARE,
            option=None,
            rows=rows,
        )
    if share < LEAST_SUPERVISED_SHARE:
        found += f", fewer than {LEAST_SUPERVISED_SHARE:.0%}: most of the time is spent on reading."
        return Finding(
            name="learned",
            status="warns",
            found=found,
            value=share,
            limit=LEAST_SUPERVISED_SHARE,
            option="shorter prompts, or data.text",
        )
    return Finding(name="learned", status="fine", found=found + ".", value=share, limit=LEAST_SUPERVISED_SHARE)


def check_end(data: Data, tokenizer: TextTokenizer) -> Finding:
    """Whether documents teach the model to stop. Inner pieces of split documents rightly teach no end."""
    train = data.train
    ids, learned = train.last_tokens
    is_chat = data.account.kind == "chat"
    ends = learned if is_chat else learned & (ids == tokenizer.end_id)
    num_ends = int(ends.sum())
    name = "the last turn's end" if is_chat else repr(tokenizer.decode([tokenizer.end_id], skip_special_tokens=False))
    found = f"{name} is learned at the end of {num_ends:,} of {len(train):,} documents"
    if num_ends == 0:
        found += ": the model would never learn to stop."
        return Finding(
            name="end",
            status="blocks",
            found=found,
            value=0,
            limit=1,
            option="data.long: split, or a larger train.max_length",
        )
    if data.account.long.num_truncated:
        found += "; those that are cut teach no end."
        return Finding(
            name="end", status="warns", found=found, value=num_ends, limit=len(train), option="data.long: split"
        )
    if num_ends < len(train):
        found += "; the others are inner pieces of split documents"
    if is_chat and len(tokenizer.stop_ids) > 1:
        names = [repr(tokenizer.decode([token], skip_special_tokens=False)) for token in tokenizer.stop_ids]
        found += f". A turn ends in {names[1]}, which is not the tokenizer's end {names[0]}: generation stops at both"
    return Finding(name="end", status="fine", found=found + ".", value=num_ends, limit=len(train))


def check_padding(data: Data, max_length: int) -> Finding:
    """Waste that padded batches would have; nothing is padded here, so it is a fact and no warning."""
    lengths = data.train.lengths
    here = f"none. Padding to {max_length} would be {_waste(lengths, max_length):.0%} of what is computed"
    usual = f", to {USUAL_LENGTH} {_waste(np.minimum(lengths, USUAL_LENGTH), USUAL_LENGTH):.0%}"
    dynamic = _dynamic_waste(lengths)
    return Finding(
        name="padding", status="fine", found=f"{here}{usual}, in batches of {USUAL_BATCH} {dynamic:.0%}.", value=0.0
    )


def _waste(lengths: NDArray[np.int64], width: int) -> float:
    return 1 - float(lengths.sum()) / (len(lengths) * width)


def _dynamic_waste(lengths: NDArray[np.int64]) -> float:
    shuffled = np.random.default_rng(0).permutation(lengths)
    batches = np.split(shuffled, range(USUAL_BATCH, len(shuffled), USUAL_BATCH))
    computed = sum(int(batch.max()) * len(batch) for batch in batches)
    return 1 - float(lengths.sum()) / computed


def check_tokenisation(
    documents: TokenizedDocuments, places: NDArray[np.int64], tokenizer: TextTokenizer, vocabulary: Sequence[bytes]
) -> Finding:
    """How finely the model's vocabulary cuts the text of the documents `places`."""
    ids = np.concatenate([documents[place][0] for place in places.tolist()])
    texts = [document_text(documents, place, tokenizer) for place in places.tolist()]
    num_tokens = len(ids)
    num_words = max(1, sum(len(text.split()) for text in texts))
    num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    num_characters = sum(map(len, texts))
    per_word, pieces = num_tokens / num_words, float(_is_byte_piece(vocabulary)[ids].mean())
    unknown = _unknown_share(ids, tokenizer)
    spaced = num_characters / num_words < _LONGEST_WORDS
    found = f"{num_bytes / num_tokens:.2f} bytes a token"
    if spaced:
        found += f", {per_word:.2f} tokens a word"
    found += f", {pieces:.1%} of the tokens are parts of characters"
    if unknown > MOST_UNKNOWN:
        found += f", {unknown:.1%} are unknown to the vocabulary and cannot be learned."
        return Finding(
            name="tokenisation",
            status="warns",
            found=found,
            value=unknown,
            limit=MOST_UNKNOWN,
            option="model.name: one whose vocabulary fits",
        )
    if pieces > MOST_BYTE_PIECES:
        found += (
            f" (more than {MOST_BYTE_PIECES:.0%}): the vocabulary hardly knows this script, so texts are long and dear."
        )
        return Finding(
            name="tokenisation",
            status="warns",
            found=found,
            value=pieces,
            limit=MOST_BYTE_PIECES,
            option="model.name: one trained on it",
        )
    if spaced and per_word > MOST_TOKENS_PER_WORD:
        found += f" (more than {MOST_TOKENS_PER_WORD:g} a word): the vocabulary hardly knows this language or format."
        return Finding(
            name="tokenisation",
            status="warns",
            found=found,
            value=per_word,
            limit=MOST_TOKENS_PER_WORD,
            option="model.name: one trained on it",
        )
    return Finding(name="tokenisation", status="fine", found=found + ".", value=per_word if spaced else pieces)


def _is_byte_piece(vocabulary: Sequence[bytes]) -> NDArray[np.bool_]:
    """[vocabulary] entries that are no whole characters by themselves."""
    flags = np.zeros(len(vocabulary), dtype=bool)
    for token, data in enumerate(vocabulary):
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            flags[token] = True
    return flags


def _unknown_share(ids: NDArray[np.int32], tokenizer: TextTokenizer) -> float:
    unknown = tokenizer.backend.unk_token_id
    if unknown is None or unknown in (tokenizer.start_id, tokenizer.end_id):
        return 0.0
    return float((ids == unknown).mean())
