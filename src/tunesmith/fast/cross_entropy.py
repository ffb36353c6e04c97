"""Cross entropy of a linear head without its logits: at most one [chunk, V] buffer exists at a time.

In training the gradient is computed in the forward pass, chunk by chunk, because the logits are at hand there; backward
only scales it. Sums over positions are float32 or better in any precision. Nothing here waits for the device.

A position whose target is IGNORED has loss 0 and gradient 0 and counts as not predicted: batches of one shape are
filled up with such positions. The denominator may be a number on the device, which nothing here looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunesmith.fast.batches.layout import IGNORED
from tunesmith.fast.device import CPU, Device
from tunesmith.fast.embedding import SharedGradient
from tunesmith.fast.linear import product, wants_onednn
from tunesmith.fast.pointwise import compute_dtype

CPU_CHUNK = 512
"""Fewest positions whose logits exist at a time on a CPU. The product that makes them runs 10% slower with 256."""
CPU_CHUNK_BYTES = 2**27
"""Size of the logits that exist at a time on a CPU: a thousand positions in bfloat16, so that most steps have one."""
CPU_BLOCK = 32
"""Positions whose probabilities are computed at a time on a CPU: few enough that they stay in its cache."""
CUDA_CHUNK_BYTES = 2**28
"""Size of the logits that exist at a time on a GPU."""
TRITON_BLOCK = 4096


Denominator = float | Tensor
"""A number, or a 0-dim tensor beside the hidden states."""


@dataclass
class Workspace:
    """The logits buffer of one model on a CPU, kept between steps: fresh memory costs a page fault every 4 KiB."""

    device: Device = CPU
    _buffer: Tensor | None = field(default=None, repr=False)

    def logits(self, like: Tensor, rows: int, size: int) -> Tensor:
        """[rows, size] of the type and device of `like`; its contents are arbitrary."""
        if self.device.type != "cpu":
            return like.new_empty(rows, size)
        kept = self._buffer
        if kept is None or kept.dtype != like.dtype or kept.numel() < rows * size:
            kept = self._buffer = like.new_empty(rows * size)
        return kept[: rows * size].view(rows, size)


@dataclass(frozen=True)
class Head:
    """A linear head. softcap: logits become softcap * tanh(logits / softcap) (Gemma 2).

    With `shared`, the weight's gradient goes there instead of to autograd. aligned: matrix and bias in the type of the
    products, with rows of zeros behind the vocabulary: the products see them, softmax and gradient do not.
    """

    weight_VE: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    shared: SharedGradient | None = None
    aligned: tuple[Tensor, Tensor | None] | None = None

    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in the type of the matrix products."""
        if self.aligned is not None and self.aligned[0].dtype == dtype:
            return self.aligned
        return self.weight_VE.to(dtype), None if self.bias_V is None else self.bias_V.to(dtype)


def linear_cross_entropy(
    hidden_NE: Tensor, head: Head, targets_N: Tensor, denominator: Denominator, workspace: Workspace
) -> Tensor:
    """Sum over positions of the cross entropy of the head's logits against the targets, over `denominator`.

    Returns a float32 scalar. Gradients flow to hidden, weight and bias where they require one.
    """
    loss: Tensor = _LinearCrossEntropy.apply(
        hidden_NE, head.weight_VE, head.bias_V, targets_N, denominator, head, workspace
    )
    return loss


def module_cross_entropy(
    hidden_NE: Tensor, head: nn.Module, softcap: float | None, targets_N: Tensor, denominator: Denominator
) -> Tensor:
    """As linear_cross_entropy, for a head that is more than one matrix (an adapter inside): recomputed in backward."""

    def chunk_loss(hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(_capped(head(hidden).float(), softcap), targets, reduction="sum")

    total = hidden_NE.sum(dtype=torch.float32) * 0.0
    for rows in _chunks(len(targets_N), CPU_CHUNK):
        total = total + checkpoint(chunk_loss, hidden_NE[rows], targets_N[rows], use_reentrant=False)
    return total / denominator


@torch.no_grad()
def token_losses(
    hidden_NE: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    softcap: float | None,
    targets_N: Tensor,
    device: Device = CPU,
) -> tuple[Tensor, Tensor]:
    """Per position: the cross entropy (float32 [N]) and whether no token is likelier than the target (bool [N]).

    logits_of gives the logits of a chunk of positions; they may be overwritten.
    """
    parts = []
    for rows in _chunks(len(targets_N), CPU_CHUNK):
        for logits, targets in _blocks(logits_of(hidden_NE[rows]), targets_N[rows], device):
            parts.append(_softmax_in_place(_capped(logits.float(), softcap), targets))
    if not parts:
        return hidden_NE.new_empty(0, dtype=torch.float32), targets_N.new_empty(0, dtype=torch.bool)
    losses, correct = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(correct)


def plain_logits(hidden_NE: Tensor, head: Head, workspace: Workspace) -> Tensor:
    """Logits of a few positions, in the workspace on a CPU."""
    dtype = compute_dtype(hidden_NE)
    with torch.autocast(hidden_NE.device.type, enabled=False):
        matrix, offset = head.matrices(dtype)
        return _logits(hidden_NE.to(dtype), matrix, offset, workspace)[:, : len(head.weight_VE)]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        denominator: Denominator,
        head: Head,
        workspace: Workspace,
    ) -> Tensor:
        dtype = compute_dtype(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            # float16 would round 1 / denominator to nothing: its gradient is scaled in backward.
            inner: Denominator = 1.0 if dtype == torch.float16 else denominator
            factor = _inverse(inner, hidden, workspace.device)
            loss = hidden.new_zeros((), dtype=torch.float64)
            matrix, offset = head.matrices(dtype)
            totals = _Totals(
                hidden,
                weight if ctx.needs_input_grad[1] or head.shared is not None else None,
                bias if ctx.needs_input_grad[2] else None,
                len(matrix),
                workspace.device,
            )
            for rows in _chunks(len(targets), _chunk_rows(matrix, workspace.device)):
                chunk = hidden[rows].to(dtype)
                logits = _logits(chunk, matrix, offset, workspace)
                loss += _gradient_in_place(logits, targets[rows], factor, len(weight), head.softcap, workspace.device)
                totals.add(rows, logits, chunk, matrix)
                del logits  # before the next chunk's
        left = 1.0 if inner is denominator else inner / denominator  # also where the denominator is infinite
        ctx.totals, ctx.shared, ctx.left = totals, head.shared, left
        return (loss / denominator).float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        totals: _Totals | None = ctx.totals
        if totals is None:
            raise RuntimeError("this loss has been backpropagated already; compute it again")
        ctx.totals = None
        totals.scale(grads[0] * ctx.left)
        d_weight = totals.weight
        if ctx.shared is not None and d_weight is not None:
            ctx.shared.put(d_weight)
            d_weight = None
        return totals.hidden, d_weight, totals.bias, None, None, None, None


class _Totals:
    """The gradients of hidden, weight and bias, as they grow chunk by chunk; the last two with the matrix's rows."""

    def __init__(
        self, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, num_rows: int, device: Device
    ) -> None:
        self.hidden: Tensor | None = torch.empty_like(hidden)
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self._of_weight, self._of_bias = weight, bias
        self._num_rows, self._device = num_rows, device

    def add(self, rows: slice, d_logits: Tensor, chunk: Tensor, matrix: Tensor) -> None:
        assert self.hidden is not None
        if wants_onednn(d_logits, self._device):
            self.hidden[rows] = product(d_logits, matrix.t())
        elif self.hidden.dtype == d_logits.dtype:
            torch.mm(d_logits, matrix, out=self.hidden[rows])
        else:
            self.hidden[rows] = d_logits @ matrix
        if self._of_weight is not None:
            self._add_weight(d_logits.t(), chunk, _sum_dtype(self._of_weight.dtype))
        if self._of_bias is not None:
            total = d_logits.sum(0, dtype=_sum_dtype(self._of_bias.dtype))
            self.bias = total if self.bias is None else self.bias.add_(total)

    def _add_weight(self, left: Tensor, right: Tensor, dtype: torch.dtype) -> None:
        if left.dtype == dtype:
            self.weight = left @ right if self.weight is None else self.weight.addmm_(left, right)
            return
        if not self._device.is_cuda:
            product = (left @ right).to(dtype)
            self.weight = product if self.weight is None else self.weight.add_(product)
        elif self.weight is None:
            self.weight = torch.mm(left, right, out_dtype=torch.float32)
        else:  # in place: a product apart is as large as the head, and read and written once more
            torch.addmm(self.weight, left, right, out_dtype=torch.float32, out=self.weight)

    def scale(self, factor: Tensor) -> None:
        """Multiply by the gradient of the loss, which mostly is 1. On a GPU looking at it would wait for it."""
        looked_at = self._device.type == "cpu" and factor.item() == 1.0
        if not looked_at:
            for total in (self.hidden, self.weight, self.bias):
                if total is not None:
                    total.mul_(factor)
        self.weight, self.bias = _finished(self.weight, self._of_weight), _finished(self.bias, self._of_bias)


def _finished(total: Tensor | None, of: Tensor | None) -> Tensor | None:
    """A gradient's rows that belong to a parameter, in its type."""
    if of is None:
        return None
    if total is None:
        return torch.zeros_like(of)
    if len(total) > len(of):  # autograd adds another gradient in place to a whole tensor, and to a view does not
        total = total[: len(of)]
    return total.to(of.dtype)


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Many chunks are summed in it."""
    return torch.promote_types(dtype, torch.float32)


def _chunk_rows(matrix: Tensor, device: Device) -> int:
    room = CUDA_CHUNK_BYTES if device.is_cuda else CPU_CHUNK_BYTES
    return int(max(CPU_CHUNK, room // (matrix.shape[0] * matrix.element_size()) // 128 * 128))


def _chunks(length: int, size: int) -> Iterator[slice]:
    """Parts of `size` or somewhat less, as equal as they can be."""
    if length > size:
        size = -(-length // -(-length // size))
    return (slice(begin, min(begin + size, length)) for begin in range(0, length, size))


def _logits(chunk: Tensor, matrix: Tensor, offset: Tensor | None, workspace: Workspace) -> Tensor:
    if wants_onednn(chunk, workspace.device):
        return product(chunk, matrix, offset)
    out = workspace.logits(matrix, len(chunk), len(matrix))
    if offset is None:
        return torch.mm(chunk, matrix.t(), out=out)
    return torch.addmm(offset, chunk, matrix.t(), out=out)


def _inverse(denominator: Denominator, hidden: Tensor, device: Device) -> Denominator:
    """1 / denominator; a tensor where a kernel reads it."""
    if isinstance(denominator, Tensor):
        return denominator.double().reciprocal()
    if device.triton:
        return torch.full((), 1.0 / denominator, dtype=torch.float64, device=hidden.device)
    return 1.0 / denominator


def _gradient_in_place(
    logits: Tensor, targets: Tensor, factor: Denominator, size: int, softcap: float | None, device: Device
) -> Tensor:
    """Replace the logits by `factor` * gradient of their summed cross entropy. Returns the sum (float64).

    Columns from `size` on are no logits; they get the gradient zero.
    """
    if device.triton:
        losses: Tensor = gradient_in_place_triton(logits, targets, factor, size, softcap)
        return losses.sum(dtype=torch.float64)
    if logits.shape[1] > size:
        logits[:, size:].zero_()
        logits = logits[:, :size]
    return torch.stack([_block_gradient(*block, factor, softcap) for block in _blocks(logits, targets, device)]).sum()


def _block_gradient(logits: Tensor, targets: Tensor, factor: Denominator, softcap: float | None) -> Tensor:
    scores = _capped(logits.to(_sum_dtype(logits.dtype)), softcap)
    slope = None if softcap is None else 1.0 - (scores / softcap).square_()
    losses, _ = _softmax_in_place(scores, targets)
    scores.mul_((targets != IGNORED).to(scores.dtype).mul_(factor)[:, None])
    scores[_places(targets)] = torch.expm1(-losses).mul_(factor)
    if slope is not None:
        scores.mul_(slope)
    if scores is not logits:
        logits.copy_(scores)
    return losses.sum(dtype=torch.float64)


def _blocks(logits: Tensor, targets: Tensor, device: Device) -> Iterator[tuple[Tensor, Tensor]]:
    """As many positions at a time as stay in a CPU's cache."""
    rows = len(logits) if device.is_cuda else CPU_BLOCK
    return zip(logits.split(rows), targets.split(rows), strict=True)


def _softmax_in_place(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Replace logits by probabilities. Returns the cross entropy [N], and whether no logit is above the target's."""
    highest, of_target, counts = scores.amax(1), scores[_places(targets)], targets != IGNORED
    torch.softmax(scores, 1, out=scores)
    # The largest probability, at least 1 / V, gives the logarithm of the sum that the others were divided by.
    losses = highest - scores.amax(1).log_() - of_target
    return losses.masked_fill_(~counts, 0.0), (of_target >= highest) & counts


def _places(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Where the logits of the targets stand; of a position without one, some place in its row."""
    return torch.arange(len(targets), device=targets.device), targets.clamp_min(0)


@torch.library.custom_op(
    "tunesmith::gradient_in_place",
    mutates_args=("logits",),
    schema="(Tensor(a!) logits, Tensor targets, Tensor factor, int size, float? softcap) -> Tensor",
)
def gradient_in_place_triton(
    logits: Tensor, targets: Tensor, factor: Tensor, size: int, softcap: float | None
) -> Tensor:
    """Replace logits [N, V] by factor * gradient of their cross entropy. Returns the losses, float32 [N].

    Two reads and one write of the logits, where the torch version makes about ten passes. It is an operator of torch's,
    so that a trace without values, and without a GPU, sees what it allocates. factor: 0-dim, on the device. size: the
    columns that are logits; the others get zero.
    """
    from tunesmith.fast.kernels.loss import cross_entropy_gradient

    losses = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
    cross_entropy_gradient[(len(targets),)](
        logits,
        logits.stride(0),
        targets,
        losses,
        size,
        logits.shape[1],
        factor,
        softcap or 1.0,
        CAPPED=softcap is not None,
        BLOCK=TRITON_BLOCK,
    )
    return losses


@gradient_in_place_triton.register_fake
def _(logits: Tensor, targets: Tensor, factor: Tensor, size: int, softcap: float | None) -> Tensor:
    return logits.new_empty(len(targets), dtype=torch.float32)


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap
