"""What a piece of torch code allocates and computes, in program order, from fake or real tensors.

`Trace` sees every operator of its thread. On fake tensors nothing is computed and no memory is taken; on real tensors
the same trace comes out, which is how the forecast is tested. Each storage is logged when it is born and when it dies,
and each operator with its arithmetic and its memory traffic.

What it cannot see: memory inside one kernel, workspaces of libraries, hand-written GPU kernels.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import flop_registry

from tunesmith.compat import (
    adds_in_place,
    asks_for_number,
    cpu_attention_operators,
    dispatch_mode,
    onednn_linear_operator,
    packet_of,
    storage_id,
    tensors_in,
)
from tunesmith.forecast.tracing.inside import taken_inside

aten = torch.ops.aten

COMPONENTS = ("weights", "gradients", "optimizer", "activations", "logits", "temporary")
IN_LAYERS = "weights in layers"
"""A label of those weights that stay in RAM where frozen layers do."""


class Event(NamedTuple):
    """A storage is born or dies."""

    storage: int
    num_bytes: int
    born: bool


class Work(NamedTuple):
    """One operator call. `gemm` is (rows, inner, columns, batch) of a matrix product, else None."""

    name: str
    dtype: torch.dtype
    flops: int
    num_bytes: int
    gemm: tuple[int, int, int, int] | None
    aligned: bool = True
    """Rows of a product's matrices begin at multiples of 16 bytes."""
    stretch: float = 1.0
    """What a GPU computes as a share of `flops`: attention works in squares that short documents do not fill."""


@dataclass
class Segment:
    """A stretch of the program: a phase, and the group of layers when it belongs to one."""

    phase: str
    group: int | None = None
    events: list[Event] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)


@dataclass
class Log:
    """What a Trace recorded: the segments in order, and the component of each storage that is known to have one."""

    segments: list[Segment] = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)
    num_trained: int = 0
    """Trained parameters of the model."""

    def events(self) -> Iterator[Event]:
        """All births and deaths in order."""
        for segment in self.segments:
            yield from segment.events

    def peak_bytes(self) -> int:
        """Most bytes alive at a time."""
        return max(self.phase_peaks().values(), default=0)

    def phase_peaks(self) -> dict[str, int]:
        """Most bytes alive in each phase."""
        alive, peaks = 0, dict[str, int]()
        for segment in self.segments:
            highest = max(peaks.get(segment.phase, 0), alive)
            for event in segment.events:
                alive += event.num_bytes if event.born else -event.num_bytes
                highest = max(highest, alive)
            peaks[segment.phase] = highest
        return peaks

    def components_at_peak(self) -> dict[str, int]:
        """Bytes of each component when most bytes are alive; they sum to the peak."""
        alive, total, peak, at_peak = dict[int, int](), 0, self.peak_bytes(), dict[int, int]()
        for event in self.events():
            if event.born:
                alive[event.storage] = event.num_bytes
                total += event.num_bytes
            else:
                total -= alive.pop(event.storage)
            if total == peak:
                at_peak = dict(alive)
                break
        sums = dict.fromkeys(COMPONENTS, 0)
        for storage, num_bytes in at_peak.items():
            label = self.labels.get(storage, "temporary")
            sums["weights" if label == IN_LAYERS else label] += num_bytes
        return sums

    def state_bytes(self) -> int:
        """Bytes of the optimizer's state."""
        return sum(e.num_bytes for e in self.events() if e.born and self.labels.get(e.storage) == "optimizer")

    def work(self, *phases: str) -> Counter[Work]:
        """Calls of each kind of operator in the named phases."""
        calls: Counter[Work] = Counter()
        for segment in self.segments:
            if segment.phase in phases:
                calls.update(segment.work)
        return calls


class Trace:
    """Records every storage that operators create, and what the operators do."""

    def __init__(
        self, *, logits_width: int | None = None, lengths: Sequence[int] = (), number: float | None = None
    ) -> None:
        """logits_width: tensors with this many columns count as logits (the vocabulary's size).

        lengths: tokens of each document, which variable-length attention takes as values that fake tensors lack.

        number: what any tensor answers that is asked for its one number, where tensors have no values.
        """
        self.number = number
        self.log = Log()
        self.logits_width = logits_width
        self.feed(lengths)
        self._begin(Segment("weights"))
        self._alive: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._next = 0
        self._mode = dispatch_mode(self._run)

    def __enter__(self) -> Trace:
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is born inside belongs to phase `name`."""
        self._begin(Segment(name))
        try:
            yield
        finally:
            self._begin(Segment("between"))

    def enter_group(self, group: int | None) -> None:
        """From here on the current phase works on a group of layers, or (None) on what follows them."""
        self._begin(Segment(self._segment.phase, group))

    @property
    def current_phase(self) -> str:
        return self._segment.phase

    def hold(self, tensors: Iterable[torch.Tensor], component: str) -> None:
        """Count tensors that exist already, and give their storages a component."""
        for tensor in tensors:
            self._see(tensor)
            self.log.labels[self.storage_of(tensor)] = component

    def storage_of(self, tensor: torch.Tensor) -> int:
        """The number under which the events call a tensor's storage."""
        return self._alive[storage_id(tensor.untyped_storage())][0]

    def name_alive(self, component: str, phase: str) -> None:
        """Give a component to every storage without one that was born in `phase` and is alive."""
        alive = {number for number, _ in self._alive.values()}
        for segment in self.log.segments:
            if segment.phase == phase:
                for event in segment.events:
                    if event.born and event.storage in alive:
                        self.log.labels.setdefault(event.storage, component)

    def feed(self, lengths: Sequence[int]) -> None:
        """From now on documents have so many tokens."""
        self.square_lengths = sum(length * length for length in lengths)
        self.stretch = attention_stretch(lengths)

    def _begin(self, segment: Segment) -> None:
        self._segment = segment
        self.log.segments.append(segment)

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.number is not None and asks_for_number(func):
            return self.number
        if adds_in_place(func, args):
            out = aten.add_.Tensor(*args, **kwargs)
        elif func is aten.addmm.dtype_out:  # into a tensor that is there; without a GPU torch copies, and cannot
            out = kwargs["out"]
        else:
            out = func(*args, **kwargs)
        if func.namespace == "prim":  # questions about a tensor's device or layout, not work
            return out
        if isinstance(out, torch.Tensor):
            self._see(out)
        else:
            for tensor in tensors_in(out):
                self._see(tensor)
        if not func.is_view:
            self._count(func, args, kwargs, out)
            self._take_inside(packet_of(func).__name__, args)
        return out

    def _take_inside(self, name: str, args: Any) -> None:
        """What a kernel takes for itself and gives back before it returns."""
        taken = [(self._next + number, size) for number, size in enumerate(taken_inside(name, args), start=1)]
        self._next += len(taken)
        self._segment.events += [Event(number, size, born) for born in (True, False) for number, size in taken]

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage_id(storage)
        if key in self._alive:
            return
        num_bytes = storage.nbytes()
        if num_bytes == 0:
            return
        self._next += 1
        number = self._next
        # The callback holds numbers only, never a tensor, so that tracing prolongs no life.
        self._alive[key] = (number, weakref.ref(storage, lambda _: self._die(key, number, num_bytes)))
        self._segment.events.append(Event(number, num_bytes, True))
        if self.logits_width is not None and tensor.ndim >= 2 and tensor.shape[-1] == self.logits_width:
            self.log.labels[number] = "logits"

    def _die(self, key: int, number: int, num_bytes: int) -> None:
        del self._alive[key]
        self._segment.events.append(Event(number, num_bytes, False))

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = packet_of(func)
        tensors = {id(tensor): tensor for tensor in tensors_in((args, kwargs, out))}
        if not tensors:
            return
        traffic = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        flops = self._flops(packet, args, kwargs, out)
        operands = _operands(packet, args) or list(tensors.values())
        gemm = _gemm_shape(packet, operands) if flops and packet in _GEMMS else None
        aligned = gemm is None or all(_is_aligned(tensor) for tensor in tensors.values())
        stretch = self.stretch if packet.__name__.startswith("_varlen_attn") else 1.0
        self._segment.work.append(Work(packet.__name__, operands[0].dtype, flops, traffic, gemm, aligned, stretch))

    def _flops(self, packet: Any, args: Any, kwargs: Any, out: Any) -> int:
        if packet.__name__.startswith("_varlen_attn"):
            query = args[1] if "backward" in packet.__name__ else args[0]
            _, heads, width = query.shape
            return int(4 * heads * width * self.square_lengths * (2.5 if "backward" in packet.__name__ else 1))
        if packet is aten.addmm:
            args = args[:3]  # without the type of the sum
        formula: Any = _MORE_FLOPS.get(packet) or flop_registry.get(packet)
        return int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0


TILE = 128
"""Rows and columns of the squares that flash attention computes."""
DIAGONAL = 2.9
"""What a square on the diagonal costs, beside one below it. With 33 tokens a document, where there are no others, the
backward passes of GPT-Neo-125M and SmolLM2-135M took 6.4 and 12.3 ms for 16,500 tokens on an H200."""


def attention_stretch(lengths: Sequence[int]) -> float:
    """What causal flash attention computes of documents of these lengths, as a share of all their squares."""
    tiles = [-(-length // TILE) for length in lengths]
    done = sum(TILE * TILE * (number * DIAGONAL + number * (number - 1) / 2) for number in tiles)
    return done / max(1, sum(length * length for length in lengths)) if lengths else 1.0


def _is_aligned(tensor: torch.Tensor) -> bool:
    """Whether every row (or column, of a transposed matrix) begins at a multiple of 16 bytes."""
    size = tensor.element_size()
    return all(stride == 1 or stride * size % 16 == 0 for stride in tensor.stride()) or tensor.ndim < 2


_LINEAR = onednn_linear_operator()
_CPU_ATTENTION, _CPU_ATTENTION_BACKWARD = cpu_attention_operators()
_GEMMS = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm, _LINEAR)


def _operands(packet: Any, args: Any) -> list[torch.Tensor]:
    """The tensors of a call; those of a matrix product without what is added to it."""
    found = list(tensors_in(args))
    return found[1:] if packet in (aten.addmm, aten.baddbmm) else found


def _gemm_shape(packet: Any, operands: list[torch.Tensor]) -> tuple[int, int, int, int]:
    left, right = operands[0], operands[1]
    if packet == _LINEAR:
        return left.numel() // left.shape[-1], int(left.shape[-1]), int(right.shape[0]), 1
    batch = left.shape[0] if left.ndim == 3 else 1
    return int(left.shape[-2]), int(left.shape[-1]), int(right.shape[-1]), int(batch)


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    batch, heads, rows, width = query.shape
    columns, value_width = key.shape[2], value.shape[3]
    return int(2 * batch * heads * rows * columns * (width + value_width))


def _attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    # Five products, the scores once more among them, against two in the forward pass.
    return _attention_flops(query, key, value) * 5 // 2


def _linear_flops(left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    return int(2 * left.numel() * right.shape[0])


_MORE_FLOPS = {
    _LINEAR: _linear_flops,
    _CPU_ATTENTION: _attention_flops,
    _CPU_ATTENTION_BACKWARD: _attention_backward_flops,
}
