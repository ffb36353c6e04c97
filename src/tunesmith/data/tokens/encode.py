"""Rendered rows to token ids and masks, a batch at a time.

Pieces of a row are encoded apart, which is what generation does: it encodes the prompt alone and goes on from there.
`chat_prompt` makes that prompt of turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.rows.pieces import MARK, Pieces
from tunesmith.data.rows.template import RowProblem
from tunesmith.data.tokens.words import EncodeBatch, WordEncoder
from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from tunesmith.data.rows.chat import ChatTemplate
    from tunesmith.data.rows.turns import Message, Turn
    from tunesmith.models.tokenizer import TextTokenizer


@dataclass(frozen=True, eq=False)
class Encoded:
    """The documents of a batch behind one another: int32 ids, which of them are targets, and the length of each."""

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Encoder:
    """chat: rows were rendered by a chat template, which writes control tokens, and its own start, itself.

    encode_batch gives the ids of texts. control_tokens: the tokenizer's added tokens. additive: texts encoded apart add
    up to the text encoded at once; not so for SentencePiece tokenizers that put a space before every text. num_rows:
    the model's embedding rows, where they are known.
    """

    encode_batch: EncodeBatch
    start_id: int
    end_id: int
    chat: bool
    control_tokens: tuple[str, ...]
    additive: bool
    num_rows: int | None = None

    @classmethod
    def of(cls, tokenizer: TextTokenizer, *, chat: bool) -> Encoder:
        first, second = tokenizer.encode_batch(["a\n", "b"])
        return cls(
            encode_batch=partial(tokenizer.encode_batch, control_tokens=chat),
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            chat=chat,
            control_tokens=tuple(str(token) for token in tokenizer.backend.added_tokens_decoder.values()),
            additive=tokenizer.decode(first + second) == "a\nb",
            num_rows=tokenizer.num_rows,
        )

    @cached_property
    def _words(self) -> WordEncoder:
        return WordEncoder(self.encode_batch, self.control_tokens)

    def encode(self, rows: Sequence[Pieces]) -> Encoded:
        """Ids and masks of a batch of rows, with start and end around each.

        Raises ModelError for an id that the model has no embedding row for.
        """
        if not self.additive and any(len(pieces) > 1 for pieces in rows):
            return self._encode_whole(rows)
        ids, lengths = self._words.encode([text for pieces in rows for text, _ in pieces])
        flags = np.array([flag for pieces in rows for _, flag in pieces], dtype=np.uint8)
        num_pieces = np.array([len(pieces) for pieces in rows])
        firsts = np.cumsum(num_pieces) - num_pieces
        row_lengths = np.add.reduceat(lengths, firsts)
        return self._surround(ids, np.repeat(flags != 0, lengths), row_lengths, rows)

    def _encode_whole(self, rows: Sequence[Pieces]) -> Encoded:
        """Rows encoded at once and cut where their beginnings, encoded alone, end."""
        parts, masks = [], []
        for pieces in rows:
            whole: list[int] = []
            mask: list[bool] = []
            for joined in _joined(pieces):
                ids, flags = self._encode_joined(joined)
                whole += ids
                mask += flags
            parts.append(whole)
            masks.append(mask)
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(parts), dtype=np.int32)
        return self._surround(tokens, np.fromiter(chain.from_iterable(masks), dtype=np.bool_), lengths, rows)

    def _encode_joined(self, pieces: Pieces) -> tuple[list[int], list[bool]]:
        texts = [text for text, _ in pieces]
        begins = self.encode_batch(["".join(texts[:number]) for number in range(1, len(texts) + 1)])
        ids = begins[-1]
        mask: list[bool] = []
        for (_, flag), begin in zip(pieces, begins, strict=True):
            same = next((i for i, (a, b) in enumerate(zip(ids, begin, strict=False)) if a != b), len(begin))
            mask += [flag != 0] * (same - len(mask))
        return ids, mask

    def prompt(self, pieces: Pieces) -> list[int]:
        """The ids of pieces that are only read: what generation goes on from."""
        if not self.additive:
            return [token for joined in _joined(pieces) for token in self._encode_joined(joined)[0]]
        return [token for ids in self.encode_batch([text for text, _ in pieces]) for token in ids]

    def _check(self, ids: NDArray[np.int32]) -> None:
        largest = int(ids.max(initial=-1))
        if self.num_rows is None or largest < self.num_rows:
            return
        from tunesmith.models.tokenizer import ADD_ROWS

        name = next((token for token in self.control_tokens if self.encode_batch([token])[0] == [largest]), "")
        raise ModelError(
            f"the data holds the token {name or '?'} (id {largest}), and the model has {self.num_rows} embedding rows: "
            f"the token was added to the tokenizer alone. To use it, {ADD_ROWS}, or use the tokenizer that it came "
            "with."
        )

    def _surround(
        self, ids: NDArray[np.int32], targets: NDArray[np.bool_], lengths: NDArray[np.int64], rows: Sequence[Pieces]
    ) -> Encoded:
        """With start and end. A chat template has its own start, and an end where its last turn has a control token."""
        self._check(ids)
        has_start = np.array([not self.chat or pieces[0][1] != 0 for pieces in rows])
        has_end = np.array([pieces[-1][1] != MARK for pieces in rows])
        lengths = lengths + has_start + has_end
        ends = np.cumsum(lengths)
        starts, lasts = (ends - lengths)[has_start], (ends - 1)[has_end]
        inner = np.ones(int(ends[-1]), dtype=np.bool_)
        inner[starts] = inner[lasts] = False
        tokens = np.empty(len(inner), dtype=np.int32)
        tokens[inner], tokens[starts], tokens[lasts] = ids, self.start_id, self.end_id
        supervised = np.empty(len(inner), dtype=np.bool_)
        supervised[inner], supervised[starts], supervised[lasts] = targets, False, True
        return Encoded(tokens, supervised, lengths)


def chat_prompt(chat: ChatTemplate, turns: Sequence[Turn], tools: list[Message] | None = None) -> list[int]:
    """The ids that generation goes on from for the assistant's next turn, as training fed them.

    Raises ModelError when the template refuses the turns.
    """
    encoder = Encoder.of(chat.tokenizer, chat=True)
    try:
        return encoder.prompt(chat.ask(turns, tools)) or [encoder.start_id]
    except RowProblem as problem:
        raise ModelError(f"the model cannot be asked: {problem}") from None


def _joined(pieces: Pieces) -> list[Pieces]:
    """Pieces that are encoded as one: no two of the same flag follow one another in them."""
    joined: list[Pieces] = []
    for piece in pieces:
        if joined and joined[-1][-1][1] != piece[1]:
            joined[-1].append(piece)
        else:
            joined.append([piece])
    return joined
