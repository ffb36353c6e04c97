"""Proof, on the user's own model and documents, that batching changes nothing that is learned.

Three measurements before step 1, on four documents, in seconds:

    packed = alone      the loss of each document in a packed batch, and alone through transformers' own forward
    no leak             the losses of the other documents stay when the tokens of the first or the last one change
    1x4 = 4x1           the gradients of one batch of four, and of four batches of one

The model, its gradients and the random numbers are afterwards as they were, bit for bit. Dropout is off meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.errors import ModelError
from tunesmith.fast import FlatBatch, flatten

if TYPE_CHECKING:
    from tunesmith.data import TokenizedDocuments

Precision = Literal["fp32", "bf16", "fp16"]
Document = tuple[NDArray[np.int32], NDArray[np.bool_]]

NUM_DOCUMENTS = 4
NUM_PARAMETERS = 8
LONGEST, SHORTEST = 512, 16
_WORK = {"cpu": 3e9, "cuda": 1e12}  # parameters x tokens of a document, about a second of each measurement
_LARGE_PARAMETER = 20_000_000
_LEAST_NORM = 0.05  # of the largest; the gradient of a key bias is zero but for rounding, and has no relative error
_LOSS_SCALE = {"fp32": 1.0, "bf16": 1.0, "fp16": 1024.0}


@dataclass(frozen=True)
class Tolerance:
    """Largest relative differences: of a document's loss, of a loss that must not move at all, of gradients."""

    packed: float
    leak: float
    gradient: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(1e-4, 1e-5, 1e-3),
    "bf16": Tolerance(2e-2, 1e-5, 6e-2),
    "fp16": Tolerance(5e-3, 1e-5, 2e-2),
}


@dataclass(frozen=True)
class Invariance:
    """What was measured: largest relative differences, and what they were held against.

    gradient_difference is None when no parameter trains.
    """

    packed_difference: float
    leak_difference: float
    gradient_difference: float | None
    tolerance: Tolerance
    precision: str
    num_documents: int
    num_tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_invariance(model: Any, documents: TokenizedDocuments, *, precision: Precision = "fp32") -> Invariance:
    """Measure, and raise ModelError when a difference is above what rounding explains.

    model: a causal language model that fast.apply was applied to, with or without an adapter, on its device.
    precision: that of the training steps; fp32, or autocast to bf16 or fp16.
    """
    started = time.monotonic()
    precision = _precision_of(model, precision)
    chosen, names = _choose(documents, _max_tokens(model))
    probe = _Probe(model, precision)
    with _undisturbed(model):
        with probe.arithmetic():  # around all that needs no gradients: weights are cast once
            losses = probe.losses(chosen)
            packed, worst = _packed_difference(probe, chosen, losses)
            leak, leaking = _leak_difference(probe, chosen, losses)
        gradient = _gradient_difference(probe, chosen)
    invariance = Invariance(
        packed_difference=packed,
        leak_difference=leak,
        gradient_difference=gradient,
        tolerance=TOLERANCES[precision],
        precision=precision,
        num_documents=len(chosen),
        num_tokens=sum(len(ids) - 1 for ids, _ in chosen),
        seconds=time.monotonic() - started,
    )
    _judge(model, invariance, names[worst], names[leaking])
    return invariance


def _judge(model: Any, found: Invariance, packed_row: str, leaking_row: str) -> None:
    allowed, problems = found.tolerance, []
    if not found.packed_difference <= allowed.packed:
        problems.append(
            f"the loss of {packed_row} in a packed batch is {found.packed_difference:.2%} off its loss alone "
            f"(at most {allowed.packed:.2%})"
        )
    if not found.leak_difference <= allowed.leak:
        problems.append(
            f"the loss of {leaking_row} moves by {found.leak_difference:.2%} with the tokens of another document "
            "(documents leak into each other)"
        )
    if found.gradient_difference is not None and not found.gradient_difference <= allowed.gradient:
        problems.append(
            f"the gradient of {found.num_documents} documents at once is {found.gradient_difference:.2%} off the sum "
            f"of theirs one by one (at most {allowed.gradient:.2%})"
        )
    if problems:
        raise ModelError(
            f"self-test of {_inner(model)} in {found.precision}: {'; '.join(problems)}. The fast path does not compute "
            "this model exactly, so nothing was trained. Please report the model; train.precision: fp32 or another "
            "model may pass."
        )


def _inner(model: Any) -> str:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(base).__name__


def _precision_of(model: Any, precision: Precision) -> Precision:
    """Weights in 16 bits round like 16 bits, whatever was asked of the steps."""
    kinds: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    weights = next((p.dtype for p in model.parameters() if p.dtype in kinds), torch.float32)
    return kinds.get(weights, precision)


def _max_tokens(model: Any) -> int:
    """Tokens of one document: many where they are cheap, few for a large model."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    affordable = int(_WORK.get(model.device.type, _WORK["cpu"]) / max(num_parameters, 1))
    return max(SHORTEST, min(LONGEST, affordable))


def _choose(documents: TokenizedDocuments, max_tokens: int) -> tuple[list[Document], list[str]]:
    """Documents of different lengths, each cut to a stretch that holds targets, and their rows' names."""
    usable = np.flatnonzero(documents.targets_per_document > 0)
    if not len(usable):
        raise ModelError("self-test: no document holds a token to learn. Expected data that prepare has checked.")
    order = usable[np.argsort(documents.lengths[usable], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, num=NUM_DOCUMENTS).astype(np.int64))
    chosen = [int(order[place]) for place in places]
    return [_stretch(*documents[index], max_tokens) for index in chosen], [documents.row_name(i) for i in chosen]


def _stretch(ids: NDArray[np.int32], supervised: NDArray[np.bool_], max_tokens: int) -> Document:
    first_target = int(np.argmax(supervised[1:])) + 1
    begin = max(0, min(first_target - 1, len(ids) - max_tokens)) if first_target >= max_tokens else 0
    part = slice(begin, begin + max_tokens)
    return ids[part], supervised[part]


# -------------------------------------------------------------------------------------------------------- measurements


@dataclass(frozen=True)
class _Probe:
    """Losses and gradients of one model. What is cast of weights without a gradient must not be used with one."""

    model: Any
    precision: Precision

    def batch(self, documents: Sequence[Document]) -> FlatBatch:
        return flatten(documents).to(self.model.device)

    @torch.no_grad()
    def losses(self, documents: Sequence[Document]) -> Tensor:
        """float64 [documents], sums, of one packed batch."""
        with self.arithmetic():
            output = self.model(flat=self.batch(documents), denominator=1.0, flat_metrics=True)
        losses: Tensor = output.document_loss
        return losses.cpu()

    @torch.no_grad()
    def plain_loss(self, document: Document) -> Tensor:
        """float64, sum, of one document through the forward that transformers gives the model."""
        batch = self.batch([document])
        with self.arithmetic():
            logits = self.model(input_ids=batch.input_ids[None], use_cache=False).logits[0]
        return F.cross_entropy(logits.double(), batch.targets, reduction="sum").cpu()

    @torch.enable_grad()
    def gradients(self, documents: Sequence[Document], denominator: float, parameters: list[Tensor]) -> list[Tensor]:
        """In float32; no parameter's .grad ever sees them."""
        with self.arithmetic():
            loss = self.model(flat=self.batch(documents), denominator=denominator).loss
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [
            torch.zeros_like(parameter, dtype=torch.float32) if gradient is None else gradient.detach().float()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        kind = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.model.device.type, kind)


def _packed_difference(probe: _Probe, documents: Sequence[Document], packed: Tensor) -> tuple[float, int]:
    """Largest relative difference of a document's loss, packed against alone, and whose."""
    alone = torch.stack([probe.plain_loss(document) for document in documents])
    return _largest(packed, alone)


def _leak_difference(probe: _Probe, documents: Sequence[Document], before: Tensor) -> tuple[float, int]:
    """How far the losses of the others move when the first or the last document holds other tokens.

    The shapes stay the same, so that the arithmetic does too: any difference is a leak and not rounding.
    """
    if len(documents) < 2:
        return 0.0, 0
    worst, where = 0.0, 0
    for place in (0, len(documents) - 1):
        ids, supervised = documents[place]
        changed = [*documents]
        changed[place] = (np.concatenate([ids[:1], ids[:0:-1] // 2]), supervised)
        others = [number for number in range(len(documents)) if number != place]
        difference, number = _largest(probe.losses(changed)[others], before[others])
        if difference > worst:
            worst, where = difference, others[number]
    return worst, where


def _gradient_difference(probe: _Probe, documents: Sequence[Document]) -> float | None:
    """Relative difference of the gradients of a few parameters, one batch against one document at a time."""
    parameters = _few_parameters(probe.model)
    if not parameters:
        return None
    denominator = probe.batch(documents).num_targets / _LOSS_SCALE[probe.precision]
    with _only(parameters, probe.model):
        whole = probe.gradients(documents, denominator, parameters)
        apart = [torch.zeros_like(gradient) for gradient in whole]
        for document in documents:
            for total, gradient in zip(apart, probe.gradients([document], denominator, parameters), strict=True):
                total += gradient
    norms = torch.stack([gradient.norm() for gradient in whole])
    differences = torch.stack([(sum_ - all_).norm() for sum_, all_ in zip(apart, whole, strict=True)])
    relative = differences / norms.clamp(min=_LEAST_NORM * float(norms.max()) + 1e-30)
    return float(relative.nan_to_num(nan=float("inf")).max())


def _few_parameters(model: Any) -> list[Tensor]:
    """Trained parameters from the first to the last layer; very large ones only where there is nothing else."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    small = [parameter for parameter in trained if parameter.numel() <= _LARGE_PARAMETER] or trained[:1]
    if not small:
        return []
    places = np.unique(np.linspace(0, len(small) - 1, num=NUM_PARAMETERS).astype(np.int64))
    return [small[place] for place in places]


def _largest(found: Tensor, expected: Tensor) -> tuple[float, int]:
    """Largest relative difference; a number that is not finite on one side alone counts as infinite."""
    difference = ((found - expected).abs() / expected.abs().clamp(min=1e-6)).nan_to_num(nan=float("inf"))
    place = int(difference.argmax())
    return float(difference[place]), place


# ------------------------------------------------------------------------------------------------------- undisturbed


@contextlib.contextmanager
def _only(parameters: list[Tensor], model: Any) -> Iterator[None]:
    """No gradients but of these are computed meanwhile."""
    wanted = {id(parameter) for parameter in parameters}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in wanted]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Evaluation mode for every module; afterwards each module's mode and the random numbers are as before."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
