"""Decode steps on a GPU: one token of every text, through the fast path, started as a whole as a CUDA graph.

A step of transformers launches some hundred small kernels, and the GPU waits for each. Here keys and values lie in
fixed places, so that the step is recorded once for a batch and replayed for each token. Its first logits are compared
with those of transformers: where they differ, or the model has no fast path, texts are written without.

Legend of the suffixes of tensor names: B rows of the batch, S new tokens or places, V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith import fast
from tunesmith.errors import ModelError
from tunesmith.fast.attending.attention import FlatMask
from tunesmith.fast.attending.cached import CachedBatch

MIN_STEPS = 16
"""Recording takes as long as a few steps."""
PLACES = 64
"""Places of the cache are a multiple of this, as attention's kernels want them."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 2e-2}
"""How far a row's logits may lie apart, root mean square, as a share of their standard deviation. Those of GPT-2 like
models lie around -100, where bfloat16 knows steps of a half."""

Call = Callable[[], None]
Choose = Callable[[Tensor, Tensor], Tensor]
"""Logits [B, V] and draws [B] to tokens [B]."""


def recorder(device: torch.device) -> Callable[[Call], Call] | None:
    """How a step is recorded on a device: given a call, something that does the same again. None: it is not."""
    return _record if device.type == "cuda" else None


def _record(call: Call) -> Call:
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            call()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay


@dataclass(frozen=True)
class Beginning:
    """A batch after its prompts were read and each text's first token was chosen."""

    cache: Any
    """Of transformers, with keys and values of the prompts, padded on the left."""
    tokens_B: Tensor
    positions_B: Tensor
    """Of those tokens, int64."""
    first_B: Tensor
    """Places of padding before each prompt, int64."""
    draws_BS: Tensor
    """Of all tokens, the first included."""


class Decoder:
    """The steps of one batch from its second token on."""

    def __init__(self, model: Any, begun: Beginning, choose: Choose, record: Callable[[Call], Call]) -> None:
        self._model, self._choose, self._record, self._draws_BS = model, choose, record, begun.draws_BS
        length, device = begun.cache.get_seq_length(), begun.tokens_B.device
        caches = [(layer.keys, layer.values) for layer in begun.cache.layers]
        if any(keys.shape[2] != length for keys, _ in caches):
            raise ModelError("a layer has forgotten the beginning of the prompts")
        room = -(-(length + begun.draws_BS.shape[1]) // PLACES) * PLACES
        self._batch = CachedBatch(
            [(_with_room(keys, room), _with_room(values, room)) for keys, values in caches],
            begun.first_B,
            begun.tokens_B.clone(),
            begun.positions_B.clone(),
            torch.tensor([length], device=device),
        )
        self._number = torch.ones(1, dtype=torch.int64, device=device)
        self._tokens_B = begun.tokens_B.clone()
        self._replay: Call | None = None

    @classmethod
    def of(cls, model: Any, begun: Beginning, choose: Choose) -> Decoder | None:
        """None where the steps of this batch cannot be recorded."""
        record = recorder(begun.tokens_B.device)
        if record is None or not _is_applied(model):
            return None
        try:
            return cls(model, begun, choose, record)
        except (ModelError, RuntimeError, AttributeError, IndexError):  # a cache of another kind, or no memory
            return None

    def takes_over(self, logits_BV: Tensor, tokens_B: Tensor) -> bool:
        """Whether the second tokens' logits are those of transformers here too, and the step after was recorded.

        tokens_B: the second tokens, chosen by these logits.
        """
        try:
            known_BV = logits_BV.float()
            apart_B = (self._logits().float() - known_BV).square().mean(1).sqrt()
            if bool((apart_B <= TOLERANCE.get(logits_BV.dtype, 0.0) * known_BV.std(1)).all()):
                self._feed(tokens_B)
                self._replay = self._record(self._advance)
        except (RuntimeError, IndexError, AttributeError, TypeError):  # each is a reason to go on without
            pass
        return self._replay is not None

    def step(self) -> Tensor:
        """The next tokens, int64 [B]."""
        assert self._replay is not None
        self._replay()
        return self._tokens_B.clone()

    def _advance(self) -> None:
        """One step. Nothing in it waits for the device or asks it anything."""
        draws_B = self._draws_BS.index_select(1, self._number)[:, 0]
        self._tokens_B.copy_(self._choose(self._logits(), draws_B))
        self._feed(self._tokens_B)

    def _logits(self) -> Tensor:
        """Of the next token, [B, V]. Writes the keys and values of the present one."""
        batch, model = self._batch, self._model
        batch.begin()
        output = model.base_model(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            attention_mask=FlatMask.of(batch),
            use_cache=False,
        )
        logits_BV: Tensor = model.get_output_embeddings()(output.last_hidden_state.flatten(0, 1))
        cap = getattr(model.config, "final_logit_softcapping", None)
        return logits_BV if cap is None else cap * torch.tanh(logits_BV / cap)

    def _feed(self, tokens_B: Tensor) -> None:
        self._batch.advance(tokens_B)
        self._number.add_(1)


@contextlib.contextmanager
def fast_path(model: Any, num_steps: int) -> Iterator[None]:
    """Inside, the model has the fast path that decode steps go through, where they will be recorded and it has one."""
    applied = None
    if recorder(model.device) is not None and num_steps >= MIN_STEPS and not _is_applied(model):
        with contextlib.suppress(ModelError, AttributeError):
            applied = fast.apply(model)
    try:
        yield
    finally:
        if applied is not None:
            applied.restore()


def _is_applied(model: Any) -> bool:
    return isinstance(vars(model).get("forward"), functools.partial)


def _with_room(cache_BGLD: Tensor, places: int) -> Tensor:
    """The same with empty places behind."""
    batch, groups, length, size = cache_BGLD.shape
    out_BGSD = cache_BGLD.new_zeros(batch, groups, places, size)
    out_BGSD[:, :, :length] = cache_BGLD
    return out_BGSD
