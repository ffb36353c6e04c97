"""One model and the rows that it writes at the same time: rows join at any step and leave when their text ends.

A row's tokens depend on its own draws, so that a text does not depend on its neighbours (text.py tells the one caveat).

Legend of the suffixes of tensor names: B rows, L columns, V vocabulary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import ModelError
from tunesmith.generate.memory import Memory, num_joinable_layers
from tunesmith.generate.request import Finish, Piece, Ticket, TokenScore, Voice
from tunesmith.generate.spelling import Spelling
from tunesmith.generate.text import accepted, choose, context_length, left_padded, stop_ids, uniform_draws

MIN_SHARED_TOKENS = 16
"""Beginnings shorter than this are read again: that costs no more than looking them up."""
MAX_KEPT_BEGINNINGS, MAX_KEPT_BYTES = 16, 256 * 2**20
MAX_ROWS = 32
BASE = "__base__"
"""peft's name for a row that no adapter changes."""


class Row:
    """One text that is being written."""

    def __init__(self, ticket: Ticket, voice: Voice, stops: frozenset[int], limit: int) -> None:
        request = ticket.request
        self.ticket, self.voice, self._stops = ticket, voice, stops
        self.max_new_tokens = min(request.decoding.max_new_tokens, limit - len(ticket.ids))
        self.new_ids: list[int] = []
        name = request.prompt if isinstance(request.prompt, str) else f"ids {list(request.prompt)}"
        self.draws: np.ndarray = uniform_draws(request.seed, name, request.occurrence, request.decoding.max_new_tokens)
        self._spelling = Spelling(voice.tokenizer, ticket.ids, request.stop)

    @property
    def length(self) -> int:
        """Tokens fed so far: the last token written is fed with the next step."""
        return len(self.ticket.ids) + max(0, len(self.new_ids) - 1)

    @property
    def draw(self) -> float:
        return float(self.draws[len(self.new_ids)])

    def accept(self, token: int, scores: tuple[TokenScore, ...]) -> bool:
        """Take the next token, deliver what it adds, and say whether the text goes on."""
        finish: Finish | None = None
        text = ""
        if token in self._stops:
            finish, scores = "stop", ()
        else:
            self.new_ids.append(token)
            text = self._spelling.add(token)
            if self._spelling.stopped:
                finish = "stop"
            elif len(self.new_ids) >= self.max_new_tokens:
                finish = "length"
        if finish is not None:
            text += self._spelling.finish()
        if text or scores or finish:
            self.ticket.deliver(Piece(text, len(self.new_ids), scores, finish))
        return finish is None


class Lane:
    """Writes with one model. `admit` takes requests in and writes their first token, `step` the next of every row."""

    def __init__(self, model: Any, voices: Sequence[Voice], *, max_rows: int = MAX_ROWS) -> None:
        self.model, self.rows = model.eval(), list[Row]()
        self.voices = {voice.name: voice for voice in voices}
        self._has_adapter = any(voice.adapter is not None for voice in voices)
        layers = num_joinable_layers(model)
        self.max_rows = max_rows if layers is not None else 1
        self.context_length = context_length(model)
        self._num_layers = layers
        self._memory = Memory(layers or 0)
        self._lone_cache: Any = None
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], Memory] = OrderedDict()
        self._stops = {v.name: frozenset(stop_ids(model, v.tokenizer)) for v in voices}
        self._options = accepted(model, {"logits_to_keep": 1})
        self._with_positions = bool(accepted(model, {"position_ids": None}))

    # ------------------------------------------------------------------------------------------------ rows come and go

    def admit(self, tickets: Sequence[Ticket]) -> None:
        """Read the prompts of `tickets` and write the first token of each; those whose text goes on join the rows.

        Prompts that begin as an earlier text did are read from there on; such that have equally much left to read, and
        all others, are read together.
        """
        rows = [self._row(ticket) for ticket in tickets]
        while rows:
            shared = [self._find_beginning(row) for row in rows]
            fresh = [row for row, (_, length) in zip(rows, shared, strict=True) if not length]
            if fresh:
                first = _one_of_each(fresh)
                self._read(first, None, 0)
            else:
                left = len(rows[0].ticket.ids) - shared[0][1]
                chosen = [place for place, row in enumerate(rows) if len(row.ticket.ids) - shared[place][1] == left]
                first = [rows[place] for place in chosen]
                self._read(first, [shared[place] for place in chosen], left)
            rows = [row for row in rows if row not in first]

    def _row(self, ticket: Ticket) -> Row:
        voice = self.voices[ticket.request.voice]
        return Row(ticket, voice, self._stops[voice.name], self.context_length)

    @torch.no_grad()
    def bytes_per_token(self) -> int:
        """What a token of a row takes, found by feeding one; the model's first pass, which is slow, is made by that."""
        memory = Memory(self._num_layers or 0)
        voice = next(iter(self.voices.values()))
        ids_BL = torch.tensor([[voice.tokenizer.start_id]], device=self.model.device)
        options = {"past_key_values": memory.cache} if self._num_layers is not None else {}
        self.model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), use_cache=True, **options)
        return memory.num_bytes

    def drop_cancelled(self) -> None:
        """Free the rows of those who left."""
        self._keep([place for place, row in enumerate(self.rows) if not row.ticket.is_cancelled])

    def clear(self) -> None:
        """Let go of all rows and of what is kept of earlier texts, as after a failure."""
        self._keep([])
        self._kept.clear()

    def _keep(self, going: list[int]) -> None:
        if len(going) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in going]
        if not self.rows:
            self._memory, self._lone_cache = Memory(self._num_layers or 0), None
        else:
            self._memory.keep(going, max(row.length for row in self.rows))

    # --------------------------------------------------------------------------------------------------- forward passes

    @torch.no_grad()
    def _read(self, rows: list[Row], beginnings: list[tuple[Memory, int]] | None, left: int) -> None:
        memory, self._lone_cache = Memory(self._num_layers or 0), None
        if beginnings is None:
            ids_BL, mask_BL = left_padded([row.ticket.ids for row in rows], self._pad_id, 0, self.model.device)
            mask_BL = mask_BL[:, : ids_BL.shape[1]]
        else:
            for kept, length in beginnings:
                memory.join(kept.copy_row(0, slice(0, length)))
            ids_BL = torch.tensor([row.ticket.ids[-left:] for row in rows], device=self.model.device)
            mask_BL = self._mask(rows)
            for row, (_, length) in zip(rows, beginnings, strict=True):
                row.ticket.num_reused = length
        logits_BV = self._forward(rows, ids_BL, mask_BL, memory)
        if not torch.isfinite(logits_BV).all():
            raise ModelError("the model's predictions are not finite numbers: its weights are damaged or diverged.")
        columns = mask_BL.shape[1]
        for place, row in enumerate(rows):
            self._keep_beginning(row.voice, row.ticket.ids, memory, place, columns)
        going = self._write(rows, logits_BV)
        if going:
            chosen = [rows[place] for place in going]
            memory.keep(going, max(row.length for row in chosen))
            self.rows += chosen
            self._memory.join(memory)

    @torch.no_grad()
    def step(self) -> None:
        """Write the next token of every row."""
        ids_B1 = torch.tensor([[row.new_ids[-1]] for row in self.rows], device=self.model.device)
        ended = [len(row.ticket.ids) + len(row.new_ids) for row in self.rows]
        logits_BV = self._forward(self.rows, ids_B1, self._mask(self.rows, ended), self._memory)
        rows, columns = self.rows, max(ended)
        going = self._write(rows, logits_BV)
        for place in set(range(len(rows))) - set(going):
            row = rows[place]
            fed = [*row.ticket.ids, *row.new_ids][: ended[place]]
            self._keep_beginning(row.voice, fed, self._memory, place, columns)
        self._keep(going)

    def _mask(self, rows: Sequence[Row], lengths: Sequence[int] | None = None) -> Tensor:
        """int64 [B, L]: each row's own columns, on the right."""
        lengths_B1 = torch.tensor(lengths or [len(row.ticket.ids) for row in rows], device=self.model.device)[:, None]
        columns = int(lengths_B1.max())
        return (torch.arange(columns, 0, -1, device=self.model.device)[None] <= lengths_B1).long()

    def _forward(self, rows: Sequence[Row], ids_BL: Tensor, mask_BL: Tensor, memory: Memory) -> Tensor:
        """Logits [B, V] of the last column."""
        options = dict(self._options)
        if self._with_positions:
            options["position_ids"] = (mask_BL.cumsum(1) - 1).clamp(min=0)[:, -ids_BL.shape[1] :]
        if self._has_adapter:  # told for rows of the base alone too: peft would otherwise apply what is active
            options["adapter_names"] = [row.voice.adapter or BASE for row in rows]
        cache = memory.cache if self._num_layers is not None else self._lone_cache
        output = self.model(input_ids=ids_BL, attention_mask=mask_BL, past_key_values=cache, use_cache=True, **options)
        if self._num_layers is None:
            self._lone_cache = output.past_key_values
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV

    @property
    def _pad_id(self) -> int:
        return next(iter(self.voices.values())).tokenizer.pad_id

    # ---------------------------------------------------------------------------------------------------------- tokens

    def _write(self, rows: Sequence[Row], logits_BV: Tensor) -> list[int]:
        """Choose the next token of each row and deliver it. Returns the places of the rows that go on."""
        tokens_B = torch.empty(len(rows), dtype=torch.int64, device=logits_BV.device)
        groups: dict[tuple[float, float], list[int]] = {}
        for place, row in enumerate(rows):
            decoding = row.ticket.request.decoding
            groups.setdefault((decoding.temperature, decoding.top_p), []).append(place)
        for places in groups.values():
            draws = torch.tensor([rows[p].draw for p in places], dtype=torch.float64, device=logits_BV.device)
            part_BV = logits_BV if len(places) == len(rows) else logits_BV[places]
            tokens_B[places] = choose(part_BV, draws, rows[places[0]].ticket.request.decoding)
        tokens = tokens_B.tolist()
        scores = self._scores(rows, logits_BV, tokens)
        return [place for place, row in enumerate(rows) if row.accept(tokens[place], scores.get(place, ()))]

    def _scores(self, rows: Sequence[Row], logits_BV: Tensor, tokens: list[int]) -> dict[int, tuple[TokenScore, ...]]:
        asked = [place for place, row in enumerate(rows) if row.ticket.request.top_logprobs is not None]
        if not asked:
            return {}
        logprobs_BV = torch.log_softmax(logits_BV[asked].float(), -1)
        most = max(rows[place].ticket.request.top_logprobs or 0 for place in asked)
        values_BK, ids_BK = logprobs_BV.topk(most, -1)
        found: dict[int, tuple[TokenScore, ...]] = {}
        for place, own, values, ids in zip(asked, logprobs_BV, values_BK.tolist(), ids_BK.tolist(), strict=True):
            spell = rows[place].voice.tokenizer.decode
            number = rows[place].ticket.request.top_logprobs or 0
            pairs = list(zip(ids, values, strict=True))[:number]
            top = tuple(TokenScore(spell([token], skip_special_tokens=False), value) for token, value in pairs)
            text = spell([tokens[place]], skip_special_tokens=False)
            found[place] = (TokenScore(text, float(own[tokens[place]]), top),)
        return found

    # ------------------------------------------------------------------------------------------------ shared beginnings

    def _find_beginning(self, row: Row) -> tuple[Memory, int]:
        """The kept memory that shares most with the row's prompt, and how many tokens; at least one stays to be fed."""
        ids = np.array(row.ticket.ids[:-1])
        best: tuple[Any, int] = (None, 0)
        for (voice, kept), memory in self._kept.items():
            length = min(len(ids), len(kept))
            if voice != row.voice.name or length <= best[1]:
                continue
            differ = np.flatnonzero(ids[:length] != np.array(kept[:length]))
            same = int(differ[0]) if len(differ) else length
            if same > best[1]:
                best = memory, same
        return best if best[1] >= MIN_SHARED_TOKENS else (Memory(0), 0)

    def _keep_beginning(self, voice: Voice, ids: list[int], memory: Memory, place: int, columns: int) -> None:
        """Remember what was fed of a row, so that a text that begins so need not be read again."""
        key = (voice.name, tuple(ids))
        if self._num_layers is None or not len(ids) > MIN_SHARED_TOKENS:
            return
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        for name, kept in list(self._kept):
            if name == voice.name and kept == key[1][: len(kept)]:
                del self._kept[name, kept]
        self._kept[key] = memory.copy_row(place, slice(columns - len(ids), columns))
        while len(self._kept) > MAX_KEPT_BEGINNINGS or sum(k.num_bytes for k in self._kept.values()) > MAX_KEPT_BYTES:
            self._kept.popitem(last=False)


def _one_of_each(rows: list[Row]) -> list[Row]:
    """The first row of each prompt that is worth keeping: the others then begin where it ended."""
    first: dict[object, Row] = {}
    for row in rows:
        long = len(row.ticket.ids) > MIN_SHARED_TOKENS
        first.setdefault((row.voice.name, tuple(row.ticket.ids)) if long else row, row)
    return list(first.values())
