"""Documents that are longer than `train.max_length`: split, truncate, drop or error.

A document is [start] text [end]. `split`, the default, loses nothing: every text token, and the end, is a target
exactly once. Pieces are cut between sentences, else between words, else between characters, and are about equally long.

    piece 1   [start] a b c d e                     no end: an inner piece must not teach that the text ends here
    piece 2   [start] (d e) f g h i [end]           (d e) repeats the tokens before as context and is no target:
                                                    a later piece must not teach that a text begins here

The other three lose tokens, and each lost target is counted in LongCounts, which the ledger shows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError
from tunesmith.run.artefacts import LongAccount

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rule = Literal["split", "truncate", "drop", "error"]
MAX_CONTEXT = 32  # tokens that a later piece repeats, at most an eighth of max_length
_CLOSERS = b"(?:[\"')\\]}]|" + "|".join("»”’」』）").encode() + b")*"


def _lead(characters: str) -> bytes:
    """A pattern that goes on where the first byte of one of some characters of several bytes was matched."""
    encoded = [character.encode() for character in characters]
    return b"|".join(b"(?<=" + re.escape(data[:1]) + b")" + re.escape(data[1:]) for data in encoded)


_SENTENCE = re.compile(  # the sentence, then the white space after it; "approx. two" does not end one
    rb"[.!?\n\xd8\xe0\xe2\xe3\xef](?:"  # one set in front: the search skips what cannot end a sentence
    b"(?P<sentence>(?:(?<=[.!?])|" + _lead("…؟।") + b")" + _CLOSERS + rb")\s+(?![a-z\s])"
    b"|(?P<wide>(?:" + _lead("。！？") + b")" + _CLOSERS + rb")\s*"
    rb"|(?<=\n)\s*)"
)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Piece:
    """What is trained of one document, or of a part of it.

    ids int32 [length] with the start in front; supervised bool [length]. `begin` and `end` delimit the document's own
    tokens in the piece, ids[begin:end] of the document, without the start and without repeated context.
    """

    ids: NDArray[np.int32]
    supervised: Flags
    begin: int
    end: int


@dataclass
class LongCounts:
    """What became of long documents. Sum the counts of several workers with `+`."""

    num_documents: int = 0
    num_long: int = 0
    num_pieces: int = 0  # made of long documents by `split`
    num_truncated: int = 0
    num_dropped: int = 0  # whole documents, because too long, or because no target was left after truncation
    context_tokens: int = 0  # fed a second time as context, never a target
    lost_targets: int = 0  # supervised tokens that are not trained
    unread_tokens: int = 0  # the others that no piece holds: of prompts too long to be read, of what is cut off

    def __add__(self, other: LongCounts) -> LongCounts:
        return LongCounts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def account(self) -> LongAccount:
        return LongAccount(**asdict(self))

    @classmethod
    def of(cls, account: LongAccount) -> LongCounts:
        """Counts that go on from those of an earlier process."""
        return cls(**dict(account))


class LongDocuments:
    """Applies `data.long` to one document after another, and counts.

    Args:
        rule: data.long.
        max_length: the longest piece in tokens, start and end included; at least 2.
        tokenizer: the transformers tokenizer whose ids the documents hold; tells where sentences and words begin.
    """

    def __init__(self, rule: Rule, max_length: int, tokenizer: PreTrainedTokenizerBase) -> None:
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}; a start and one token need 2")
        self.rule = rule
        self.max_length = max_length
        self.boundaries = Boundaries(tokenizer)
        self.counts = LongCounts()

    def fit(self, ids: Sequence[int] | NDArray[np.int32], supervised: Flags | None, where: str) -> list[Piece]:
        """The pieces of one document, each at most max_length tokens.

        Args:
            ids: [length], start and end included.
            supervised: [length] which ids are targets; None: all but the first.
            where: the row's name for an error, such as shows.csv:17.

        Returns:
            One piece when the document fits, none when it is dropped. A piece without any target is left out.

        Raises:
            DataError: the rule is `error` and the document is too long.
        """
        array = np.asarray(ids, dtype=np.int32)
        if supervised is None:
            supervised = np.ones(len(array), dtype=bool)
            supervised[:1] = False
        self.counts.num_documents += 1
        if len(array) <= self.max_length:
            return [Piece(array, supervised, 1, len(array))]
        self.counts.num_long += 1
        if self.rule == "error":
            raise DataError(self._too_long(len(array), where))
        if self.rule == "split":
            return self._split(array, supervised)
        return self._cut(array, supervised)

    def _too_long(self, length: int, where: str) -> str:
        return (
            f"{where}: {length} tokens, start and end included. train.max_length is {self.max_length} and data.long is "
            "error. Raise train.max_length, or set data.long to split (nothing lost), truncate or drop."
        )

    def _cut(self, ids: NDArray[np.int32], supervised: Flags) -> list[Piece]:
        kept = self.max_length if self.rule == "truncate" else 1
        is_gone = not supervised[:kept].any()
        kept = 1 if is_gone else kept
        lost = int(supervised[kept:].sum())
        self.counts.lost_targets += lost
        self.counts.unread_tokens += len(ids) - kept - lost
        if is_gone:
            self.counts.num_dropped += 1
            return []
        self.counts.num_truncated += 1
        return [Piece(ids[:kept], supervised[:kept], 1, kept)]

    def _split(self, ids: NDArray[np.int32], supervised: Flags) -> list[Piece]:
        context = min(MAX_CONTEXT, self.max_length // 8)
        if self.max_length > 2:
            context = max(context, 1)
        cuts = self._cuts(ids, context)
        pieces = []
        read = 1
        for begin, end in itertools.pairwise(cuts):
            repeated = min(context, begin - 1)
            if not supervised[begin:end].any():
                continue
            piece = np.concatenate([ids[:1], ids[begin - repeated : end]])
            targets = np.concatenate([np.zeros(1 + repeated, dtype=bool), supervised[begin:end]])
            pieces.append(Piece(piece, targets, begin, end))
            self.counts.context_tokens += max(0, read - (begin - repeated))
            self.counts.unread_tokens += max(0, begin - repeated - read)
            read = end
        self.counts.unread_tokens += len(ids) - read
        self.counts.num_pieces += len(pieces)
        if not pieces:
            self.counts.num_dropped += 1
        return pieces

    def _cuts(self, ids: NDArray[np.int32], context: int) -> list[int]:
        """Where pieces begin, and the length at the end. ids[0] is the start and belongs to no piece."""
        ranks = self.boundaries.ranks(ids)
        cuts = [1]
        while True:
            begin = cuts[-1]
            room = self.max_length - 1 - min(context, begin - 1)
            left = len(ids) - begin
            if left <= room:
                return [*cuts, len(ids)]
            even = -(-left // -(-left // room))
            cuts.append(begin + _best_cut(ranks[begin : begin + room + 1], even))


def _best_cut(ranks: NDArray[np.int8], even: int) -> int:
    """Length of the next piece: the best boundary near `even`, from half of it up to the room that there is.

    ranks[i] says how good a cut after i tokens is. Later cuts are preferred to earlier ones, so that no piece is added.
    """
    room = len(ranks) - 1
    least = max(1, even // 2)
    for rank in (3, 2, 1):
        places = np.flatnonzero(ranks >= rank)
        after = places[(places >= even) & (places <= room)]
        if len(after):
            return int(after[0])
        before = places[(places >= least) & (places < even)]
        if len(before):
            return int(before[-1])
    return room


class Boundaries:
    """Where a text may be cut, read from its tokens' bytes: byte-level BPE, or SentencePiece with byte fallback."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def ranks(self, ids: NDArray[np.int32]) -> NDArray[np.int8]:
        """int8 [length]: before ids[i] begins a sentence 3, a word 2, a character 1, none of them 0."""
        lengths = self.sizes[ids]
        text = b"".join(map(self._tokens.__getitem__, ids.tolist()))
        ranks: NDArray[np.int8] = _byte_ranks(text)[np.cumsum(lengths) - lengths]
        ranks[-1] = 0  # the end never stands alone
        return ranks

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """[vocabulary] bytes of text that each id stands for; none for control tokens."""
        return np.array([len(data) for data in self._tokens])

    @cached_property
    def _tokens(self) -> list[bytes]:
        tokens = vocabulary_bytes(self.tokenizer)
        for special in self.tokenizer.all_special_ids:
            tokens[special] = b""
        return tokens


def _byte_ranks(text: bytes) -> NDArray[np.int8]:
    """int8 [bytes + 1]: the rank of a cut before each byte, and at the end."""
    codes = np.frombuffer(text + b" ", dtype=np.uint8)
    ranks = np.where((codes & 0xC0) == 0x80, 0, 1).astype(np.int8)
    is_space = (codes == 0x20) | ((codes >= 0x09) & (codes <= 0x0D))
    ranks[is_space] = 2
    ranks[1:][is_space[:-1]] = 2
    ends = [
        place
        for match in _SENTENCE.finditer(text)
        for place in (match.end(match.lastgroup) if match.lastgroup else match.start(), match.end())
    ]
    ranks[ends] = 3
    return ranks


def vocabulary_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """The bytes of each entry of the vocabulary, by id; control tokens as they are written."""
    return token_bytes(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))


def token_bytes(names: Sequence[str | None]) -> list[bytes]:
    """The bytes that vocabulary entries stand for; a lone byte of a longer character stays a lone byte."""
    byte_of = _byte_alphabet()
    if "Ġ" in set(names):
        return [_byte_level(name or "", byte_of) for name in names]
    return [_sentencepiece(name or "") for name in names]


def _byte_level(name: str, byte_of: dict[str, int]) -> bytes:
    try:
        return bytes([byte_of[character] for character in name])
    except KeyError:  # an added token, written as itself
        return name.encode("utf-8")


def _sentencepiece(name: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode("utf-8")


def _byte_alphabet() -> dict[str, int]:
    """Byte of each character in which byte-level BPE writes its tokens (Radford et al., 2019): printable ones as they
    are, the other 68 as the characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + rank): byte for rank, byte in enumerate(others)}
