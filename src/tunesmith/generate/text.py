"""Write text: many prompts at once, reproducibly, or one prompt piece by piece.

A prompt is fed as [start] prompt, as in training; the prompt "" writes from nothing. A text ends where the tokenizer's
EOS, the end of a turn in its chat template or an end of the model's own (generation_config.json) is written.

Each sample has a random stream of its own, made from the seed, the prompt and how often that prompt came before, so a
text depends neither on the batch size nor on what else is written. One caveat: a matrix product rounds differently for
another batch shape (about 1e-6 in float32, 1e-2 in bfloat16), so a draw that falls that close to the border between two
tokens can differ.

Legend of the suffixes of tensor names: B rows of the batch, L fed tokens, S new tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.generate.decode import Beginning, Decoder, fast_path, recorder
from tunesmith.models.load import evaluation_mode
from tunesmith.models.tokenizer import TextTokenizer

CONTEXT_TOKENS = 8
"""Tokens of the prompt that are decoded along with the continuation, so that spaces at the seam come out right."""
SHRINK_AT = 0.75
"""Rows that ended leave the batch when at most this share is still being written: each time copies the cache."""


@dataclass(frozen=True)
class Generation:
    """What followed a prompt: `num_tokens` are in `text`; `ended` says that the model then wrote an end token."""

    prompt: str
    text: str
    num_tokens: int
    ended: bool
    is_answer: bool = False
    """The prompt was asked as a user's turn, so that `text` answers it and does not continue it."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. temperature 0 is greedy; top_p keeps the smallest set of tokens with that mass."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise TunesmithError(f"max_new_tokens: found {self.max_new_tokens}. Expected 1 or more.")
        if not 0 <= self.temperature < float("inf"):
            raise TunesmithError(f"temperature: found {self.temperature}. Expected 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise TunesmithError(f"top_p: found {self.top_p}. Expected more than 0 and at most 1.")


@dataclass(frozen=True)
class _Request:
    ids: list[int]
    max_new_tokens: int
    """Less than asked where the model's context ends."""
    draws: np.ndarray
    """float64 [S], uniform in [0, 1): one a token."""


def generate(
    model: Any,
    tokenizer: TextTokenizer,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int = 32,
) -> list[Generation]:
    """Continue each prompt until an end token or `max_new_tokens`; results in the order of the prompts.

    Ids are fed as they are, start token included: a chat rendered by the model's template.
    The same prompt given twice is written twice, differently. Raises ModelError for a prompt that fills the model's
    context, and TunesmithError for decoding values that make no sense.
    """
    decoding = Decoding(max_new_tokens, temperature, top_p)
    requests = _requests(model, tokenizer, prompts, decoding, seed)
    written: dict[int, Generation] = {}
    stops = stop_ids(model, tokenizer)
    with evaluation_mode(model):
        for numbers in _batches(requests, max(1, batch_size), context_length(model)):
            batch = [requests[number] for number in numbers]
            for number, new_ids in zip(numbers, _write(model, tokenizer, batch, decoding), strict=True):
                written[number] = _finish(tokenizer, prompts[number], requests[number], new_ids, stops)
    return [written[number] for number in range(len(prompts))]


def stream(
    model: Any,
    tokenizer: TextTokenizer,
    prompt: str | Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> Iterator[str]:
    """The continuation of one prompt in pieces, as it is written; joined they are what `generate` returns.

    Ids are fed as they are, start token included: a chat rendered by the model's template. Raises as `generate` does.
    """
    decoding = Decoding(max_new_tokens, temperature, top_p)
    request = _requests(model, tokenizer, [prompt], decoding, seed)[0]
    return _pieces(model, tokenizer, request, decoding)


def _pieces(model: Any, tokenizer: TextTokenizer, request: _Request, decoding: Decoding) -> Iterator[str]:
    new_ids: list[int] = []
    stops = stop_ids(model, tokenizer)
    shown = text = ""
    with evaluation_mode(model):
        for _, tokens in _steps(model, tokenizer, [request], decoding):
            token = int(tokens[0])
            if token in stops:
                break
            new_ids.append(token)
            text = _continuation(tokenizer, request.ids, new_ids)
            if len(text) > len(shown) and not text.endswith("\ufffd"):  # a character may take several tokens
                yield text[len(shown) :]
                shown = text
    if len(text) > len(shown):
        yield text[len(shown) :]


# ------------------------------------------------------------------------------------------------- requests and results


def _requests(
    model: Any, tokenizer: TextTokenizer, prompts: Sequence[str | Sequence[int]], decoding: Decoding, seed: int
) -> list[_Request]:
    seen: Counter[str] = Counter()
    requests = []
    encoded = iter(tokenizer.encode_batch([prompt for prompt in prompts if isinstance(prompt, str)]))
    for prompt in prompts:
        if isinstance(prompt, str):
            name, ids = prompt, [tokenizer.start_id, *next(encoded)]
        else:
            ids = [int(token) for token in prompt] or [tokenizer.start_id]
            name = f"ids {ids}"
        draws = uniform_draws(seed, name, seen[name], decoding.max_new_tokens)
        seen[name] += 1
        requests.append(_request(model, ids, decoding, draws))
    return requests


def _request(model: Any, ids: list[int], decoding: Decoding, draws: np.ndarray) -> _Request:
    limit = context_length(model)
    room = min(decoding.max_new_tokens, limit - len(ids))
    if room < 1:
        raise ModelError(
            f"a prompt of {len(ids)} tokens leaves no room in the model's context of {limit}. Shorten the prompt."
        )
    return _Request(ids, room, draws)


def context_length(model: Any) -> int:
    """Most tokens that the model reads at once; models without learned or rotary positions may name none."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize)


def _batches(requests: list[_Request], batch_size: int, context_length: int) -> Iterator[list[int]]:
    """Numbers of requests to write together, longest prompt first.

    A short prompt never shares a batch with one so long that their columns, padding included, would leave the context.
    """
    batch: list[int] = []
    for number in sorted(range(len(requests)), key=lambda number: -len(requests[number].ids)):
        longest = len(requests[batch[0]].ids) if batch else 0
        if len(batch) == batch_size or longest + requests[number].max_new_tokens > context_length:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def uniform_draws(seed: int, prompt: str, occurrence: int, number: int) -> np.ndarray:
    """float64 [number] in [0, 1): the random stream of one sample, the same whatever else is written."""
    digest = hashlib.sha256(f"{seed}\0{occurrence}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(number)


def stop_ids(model: Any, tokenizer: TextTokenizer) -> tuple[int, ...]:
    """Ids that end a text: the tokenizer's EOS, the end of a turn in its chat template, and the model's own ends."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = own if isinstance(own, list) else [own]
    return tuple(dict.fromkeys((*tokenizer.stop_ids, *(int(token) for token in ends if token is not None))))


def _finish(
    tokenizer: TextTokenizer,
    prompt: str | Sequence[int],
    request: _Request,
    new_ids: list[int],
    stops: tuple[int, ...],
) -> Generation:
    text = prompt if isinstance(prompt, str) else tokenizer.decode(request.ids)
    new_ids = new_ids[: request.max_new_tokens]
    end = next((place for place, token in enumerate(new_ids) if token in stops), None)
    new_ids = new_ids[:end]
    return Generation(text, _continuation(tokenizer, request.ids, new_ids), len(new_ids), end is not None)


def _continuation(tokenizer: TextTokenizer, ids: list[int], new_ids: list[int]) -> str:
    """The text of `new_ids` where it stands after `ids`."""
    context = ids[-CONTEXT_TOKENS:]
    before, whole = tokenizer.decode(context), tokenizer.decode([*context, *new_ids])
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new_ids)


# --------------------------------------------------------------------------------------------------------- the one loop


def _write(model: Any, tokenizer: TextTokenizer, batch: list[_Request], decoding: Decoding) -> list[list[int]]:
    """New ids of each request; whatever follows an end token is noise."""
    num_steps = max(request.max_new_tokens for request in batch)
    written_BS = torch.full((len(batch), num_steps), tokenizer.end_id, device=model.device)
    for step, (rows_B, tokens_B) in enumerate(_steps(model, tokenizer, batch, decoding)):
        written_BS[rows_B, step] = tokens_B
    return [list(row) for row in written_BS.tolist()]


@torch.no_grad()  # not inference_mode: tensors that a model caches here must remain usable in training
def _steps(
    model: Any, tokenizer: TextTokenizer, batch: list[_Request], decoding: Decoding
) -> Iterator[tuple[Tensor, Tensor]]:
    """One forward pass a step: yields the rows still being written, int64 [B], and their tokens, int64 [B].

    Prompts are padded on the left, so that all rows write in the same column; the padding is masked and not counted in
    positions. Rows that ended go on as noise until enough of them have ended to be worth dropping.
    """
    device, num_steps = model.device, max(request.max_new_tokens for request in batch)
    rows = _Rows.of(batch, tokenizer.pad_id, stop_ids(model, tokenizer), num_steps, device)
    check_every = 1 if recorder(device) is None else 8  # asking a GPU whether rows ended waits for it
    options = accepted(model, {"logits_to_keep": 1})
    with_positions = bool(accepted(model, {"position_ids": None}))
    cache, decoder = None, None
    with fast_path(model, num_steps):
        for step in range(num_steps):
            if decoder is not None and step > 1:
                tokens_B = decoder.step()
            else:
                inputs = rows.inputs(with_positions) | options
                output = model(**inputs, past_key_values=cache, use_cache=True)
                cache, logits_BV = output.past_key_values, output.logits[:, -1]
                if step == 0 and not torch.isfinite(logits_BV).all():
                    raise ModelError(
                        "the model's predictions are not finite numbers: its weights are damaged or diverged."
                    )
                tokens_B = choose(logits_BV, rows.draws_BS[:, step], decoding)
            yield rows.numbers_B, tokens_B
            rows.feed(tokens_B)
            if step == 0:
                decoder = Decoder.of(model, rows.beginning(cache), partial(choose, decoding=decoding))
            elif step == 1 and decoder is not None and not decoder.takes_over(logits_BV, tokens_B):
                decoder = None
            if (step + 1) % check_every == 0 and not rows.drop_ended(None if decoder is not None else cache):
                return


@dataclass
class _Rows:
    """The rows of a batch that are still being written, and what is fed of them next."""

    ids_BL: Tensor
    mask_BL: Tensor
    """Covers what will be written, too."""
    positions_BL: Tensor
    last_B: Tensor
    """The position of each row's last token."""
    draws_BS: Tensor
    numbers_B: Tensor
    """Of the rows in the batch."""
    ended_B: Tensor
    stops: Tensor
    length: int
    """Columns so far."""

    @classmethod
    def of(
        cls, batch: list[_Request], pad_id: int, stops: tuple[int, ...], num_steps: int, device: torch.device
    ) -> _Rows:
        ids_BL, mask_BL = left_padded([request.ids for request in batch], pad_id, num_steps, device)
        return cls(
            ids_BL,
            mask_BL,
            positions_BL=(mask_BL.cumsum(1) - 1).clamp(min=0),
            last_B=torch.tensor([len(request.ids) + request.max_new_tokens - 1 for request in batch], device=device),
            draws_BS=torch.from_numpy(np.stack([request.draws for request in batch])).to(device),
            numbers_B=torch.arange(len(batch), device=device),
            ended_B=torch.zeros(len(batch), dtype=torch.bool, device=device),
            stops=torch.tensor(stops, device=device),
            length=ids_BL.shape[1],
        )

    def inputs(self, with_positions: bool) -> dict[str, Tensor]:
        """Arguments of the model's next pass."""
        inputs = {"input_ids": self.ids_BL, "attention_mask": self.mask_BL[:, : self.length]}
        if with_positions:
            inputs["position_ids"] = self.positions_BL[:, self.length - self.ids_BL.shape[1] : self.length]
        return inputs

    def feed(self, tokens_B: Tensor) -> None:
        """These are fed next."""
        self.length += 1
        self.ids_BL = tokens_B[:, None]
        ends_B = torch.isin(tokens_B, self.stops) | (self.positions_BL[:, self.length - 1] >= self.last_B)
        self.ended_B = self.ended_B | ends_B

    def beginning(self, cache: Any) -> Beginning:
        """What a decoder begins with, after the first tokens."""
        padding_B = (self.mask_BL == 0).sum(1)
        return Beginning(cache, self.ids_BL[:, 0], self.positions_BL[:, self.length - 1], padding_B, self.draws_BS)

    def drop_ended(self, cache: Any) -> bool:
        """Whether any row goes on. Rows that ended go, where they are many; with a decoder (no cache) all stay."""
        going = (~self.ended_B).nonzero().flatten()
        if cache is not None and 0 < len(going) <= SHRINK_AT * len(self.numbers_B):
            cache.batch_select_indices(going)
            for name in ("ids_BL", "mask_BL", "positions_BL", "last_B", "draws_BS", "numbers_B", "ended_B"):
                setattr(self, name, getattr(self, name).index_select(0, going))
        return len(going) > 0


def left_padded(prompts: list[list[int]], pad_id: int, num_steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids [B, L] and the attention mask [B, L + S + 1] that also covers what will be written."""
    longest = max(len(ids) for ids in prompts)
    ids_BL = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask_BL = torch.ones((len(prompts), longest + num_steps + 1), dtype=torch.int64)
    for row, ids in enumerate(prompts):
        ids_BL[row, longest - len(ids) :] = torch.tensor(ids)
        mask_BL[row, : longest - len(ids)] = 0
    return ids_BL.to(device), mask_BL.to(device)


def choose(logits_BV: Tensor, draws_B: Tensor, decoding: Decoding) -> Tensor:
    """The next token of each row, int64 [B]: the token in whose share of the probability mass the draw falls."""
    if decoding.temperature == 0:
        return logits_BV.argmax(-1)
    weights_BV = torch.softmax(logits_BV.float() / decoding.temperature, -1)
    if decoding.top_p == 1:
        return _pick(weights_BV, draws_B)
    sorted_BV, order_BV = weights_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1, dtype=torch.float64) - sorted_BV
    kept = _pick(sorted_BV.where(before_BV < decoding.top_p, 0.0), draws_B)
    return order_BV.gather(1, kept[:, None])[:, 0]


def _pick(weights_BV: Tensor, draws_B: Tensor) -> Tensor:
    """Inverse of the cumulative distribution at the draws; a token of weight 0 is never picked."""
    cumulative_BV = weights_BV.cumsum(-1, dtype=torch.float64)
    targets_B1 = (draws_B * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, targets_B1, right=True)[:, 0].clamp(max=weights_BV.shape[1] - 1)


def accepted(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of `arguments` that the model's forward takes; not every architecture has positions or can skip logits."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(type(inner).forward).parameters
    return {name: value for name, value in arguments.items() if name in known}
