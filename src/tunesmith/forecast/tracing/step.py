"""One optimizer step, traced: exactly what training runs, or what a plain Trainer with padded rows runs.

`trace_step` needs a config and no weights. `run_step` is the step itself, on any tensors: the forecast is tested by
running it on a real model and comparing.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from tunesmith.compat import fake_tensor_mode
from tunesmith.errors import ModelError
from tunesmith.fast.batches.layout import FlatBatch
from tunesmith.fast.device import Device
from tunesmith.fast.optimizers.eight_bit import BLOCK, SMALLEST
from tunesmith.fast.optimizers.in_backward import InBackward
from tunesmith.fast.streamed import PLACES
from tunesmith.forecast.tracing import simulate
from tunesmith.forecast.tracing.splice import MIN_GROUPS, TEMPLATE, NotAlike, repeat_layers
from tunesmith.forecast.tracing.trace import IN_LAYERS, Event, Log, Segment, Trace
from tunesmith.recipe import LoraSection
from tunesmith.step import (
    DTYPES,
    StepSettings,
    autocast,
    clip_gradients,
    clip_gradients_in_parts,
    make_optimizer,
    prepare_model,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Step:
    """Everything that decides what one optimizer step allocates and computes."""

    micro_batch: tuple[int, ...]
    """Tokens that each document of the largest micro-batch feeds."""
    accumulates: bool = False
    """A step has more than one micro-batch, so gradients survive into the next forward pass."""
    method: Literal["full", "lora", "dora", "qlora"] = "full"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    flash: bool = True
    """The GPU has flash attention: Ampere or newer."""
    kind: Literal["tunesmith", "reference"] = "tunesmith"
    """reference: transformers' eager attention over padded rows (each entry of micro_batch is one row), with logits."""
    optimizer: Literal["adamw", "adafactor", "muon"] = "adamw"
    """Of adamw8bit the log is adamw's, `with_8bit_state`."""
    lora: LoraSection = field(default_factory=LoraSection)
    target_fraction: float = 1.0
    """Share of the fed tokens that are supervised."""
    update_in_backward: bool = False
    clips: bool = True
    """Gradients are clipped."""
    num_added: int = 0
    """Rows of the embedding that were added, which an adapter trains too."""
    fused: bool = True
    """On a GPU layers run in few launches, which takes Triton."""
    scored_batch: tuple[int, ...] = ()
    """Tokens that each document of the largest batch of an evaluation feeds. None: it is the micro-batch."""

    @property
    def num_tokens(self) -> int:
        return sum(self.micro_batch)

    @property
    def num_scored(self) -> int:
        """Tokens fed in the pass of an evaluation."""
        return sum(self.scored_batch or self.micro_batch)

    @property
    def settings(self) -> StepSettings:
        """What training would be told. The 8-bit optimizer cannot be traced: `with_8bit_state` puts its state in."""
        return StepSettings(
            method=self.method,
            precision=self.precision,
            dtype=self.dtype,
            optimizer=self.optimizer,
            gradient_checkpointing=self.gradient_checkpointing,
            fast=self.kind == "tunesmith",
            lora=self.lora.model_copy(update={"init": "zero"}),  # a start that needs values, of the same shapes
            max_grad_norm=1.0 if self.clips else math.inf,
        )

    @property
    def runs_each_pass(self) -> int:
        """How often: twice where the norm is needed before the first weight moves."""
        return 2 if self.update_in_backward and self.clips else 1

    @property
    def fast_device(self) -> Device:
        """What the fast path is told of the device: this processor, or a GPU that need not be here."""
        if self.device == "cuda":
            return Device.pretended_gpu(flash_attention=self.flash, fused=self.fused)
        return Device.of(torch.device("cpu"))


def trace_step(config: PretrainedConfig, step: Step, *, splice: bool = True) -> Log:
    """Allocations and work of two optimizer steps and an evaluation pass, from the config alone.

    The first step creates the optimizer's state, the second runs beside it. `splice` traces five groups of like layers
    and repeats their record, which gives the same log in a fraction of the time.

    Raises ModelError when the model has a structure that is not known.
    """
    try:
        return _twice(_trace(config, step, splice=splice))
    except NotAlike:
        return _twice(_trace(config, step, splice=False))


def _trace(config: PretrainedConfig, step: Step, *, splice: bool) -> Log:
    batches = batches_of(step)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        bare = simulate.build_on_meta(config, dtype=DTYPES[step.dtype], attention=_attention(step))
        bare.added_rows = range(config.get_text_config().vocab_size)[-step.num_added :] if step.num_added else range(0)
        layers = Layers(bare, config, shorten=splice)
        if step.method == "qlora":
            simulate.quantise(bare)
        model = prepare_model(bare, step.settings, step.fast_device)
        if step.device == "cuda":
            kernels = stack.enter_context(simulate.GpuKernels(flash=step.flash))
            if step.gradient_checkpointing:
                kernels.recompute(model)
        mode = stack.enter_context(fake_tensor_mode())
        simulate.fakify(model)
        batches = Batches(*(simulate.fake_batch(batch, mode) for batch in batches))
        width = config.get_text_config().vocab_size
        # The one number that is looked at is the gradient of the loss.
        trace = stack.enter_context(Trace(logits_width=width, lengths=step.micro_batch, number=1.0))
        layers.mark(trace)
        groups = layers.groups(model)
        run_step(model, step, batches, trace, groups)
    trained = [(group, sum(parameter.numel() for parameter in tensors.trained)) for group, tensors in groups]
    log = repeat_layers(trace.log, layers.num_missing) if layers.num_missing else trace.log
    log.num_trained = sum(number * (1 + layers.num_missing * (group == TEMPLATE)) for group, number in trained)
    return log


@dataclass(frozen=True)
class Tensors:
    """Parameters and buffers of a part of the model."""

    parameters: list[nn.Parameter]
    buffers: list[Tensor]

    @property
    def frozen_in_layers(self) -> list[nn.Parameter]:
        return [p for p in self.parameters if not p.requires_grad and getattr(p, "in_layer", False)]

    @property
    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters if parameter.requires_grad]


Groups = list[tuple[int | None, Tensors]]
Optimizers = list[tuple[int | None, torch.optim.Optimizer]]


class Batches(NamedTuple):
    """What a step is fed, and what the evaluation behind it is."""

    trained: FlatBatch
    scored: FlatBatch


def batches_of(step: Step) -> Batches:
    """As large as the step says. Call it outside of fake mode."""
    batch = simulate.traced_batch(step.micro_batch, step.target_fraction)
    return Batches(
        batch, simulate.traced_batch(step.scored_batch, step.target_fraction) if step.scored_batch else batch
    )


def run_step(model: Any, step: Step, batches: Batches, trace: Trace, groups: Groups | None = None) -> None:
    """One optimizer step and one evaluation pass under a trace, on fake or real tensors.

    groups: the model's tensors by group of layers, in order; the optimizer then takes one group after another.
    """
    groups = groups or [(None, Tensors(list(model.parameters()), list(model.buffers())))]
    with trace.phase("weights"):
        for group, tensors in groups:
            trace.enter_group(group)
            trace.hold((*tensors.parameters, *tensors.buffers), "weights")
            trace.hold(tensors.frozen_in_layers, IN_LAYERS)
    for batch in {id(batch): batch for batch in batches}.values():
        trace.hold((batch.input_ids, batch.position_ids, batch.targets, batch.cu_seqlens), "temporary")
    with trace.phase("state"):
        optimizers = _optimizers(groups, step, trace)
    trace.name_alive("optimizer", "state")
    if step.update_in_backward:
        _run_lean_step(model, step, batches.trained, trace, [optimizer for _, optimizer in optimizers])
    else:
        _run_step(model, step, batches.trained, trace, groups, optimizers)
    with trace.phase("evaluation"), torch.no_grad():
        trace.feed(step.scored_batch or step.micro_batch)
        model.eval()
        _forward(
            model, step, batches.scored, weights_changed=False
        )  # an evaluation copies weights once, this is a pass of it
        model.train()


def _run_lean_step(model: Any, step: Step, batch: FlatBatch, trace: Trace, optimizers: list[Any]) -> None:
    """The pass in which weights move; the one before it for the norm needs no more. The other phases are empty."""

    def one_pass() -> Tensor:
        with trace.phase("forward"):
            loss = _forward(model, step, batch, weights_changed=True)
        trace.name_alive("activations", "forward")
        with trace.phase("backward"):
            loss.backward()
        return loss.detach()

    InBackward(optimizers).run(one_pass, math.inf, lambda: None)
    for phase in ("clip", "optimizer", "zero_grad"):
        with trace.phase(phase):
            pass


def _run_step(model: Any, step: Step, batch: FlatBatch, trace: Trace, groups: Groups, optimizers: Optimizers) -> None:
    trained = [parameter for _, tensors in groups for parameter in tensors.trained]
    for number in range(2 if step.accumulates else 1):
        with trace.phase("forward"):
            loss = _forward(model, step, batch, weights_changed=number == 0)
        trace.name_alive("activations", "forward")
        with trace.phase("backward"):
            loss.backward()
        del loss
        trace.hold((parameter.grad for parameter in trained if parameter.grad is not None), "gradients")
    with trace.phase("clip"):
        _clip(trace, groups, step.settings.max_grad_norm)
    with trace.phase("optimizer"):
        for group, optimizer in optimizers:
            trace.enter_group(group)
            optimizer.step()
    with trace.phase("zero_grad"):
        for group, tensors in groups:
            trace.enter_group(group)
            for parameter in tensors.trained:
                parameter.grad = None


def _optimizers(groups: Groups, step: Step, trace: Trace) -> Optimizers:
    """One of each group that trains, its state made: in training it is there before the first activation."""
    made = []
    for group, tensors in groups:
        trace.enter_group(group)
        if tensors.trained:
            made.append((group, make_optimizer(tensors.trained, step.settings, step.fast_device)))
    return made


def _clip(trace: Trace, groups: Groups, max_norm: float) -> None:
    if len(groups) == 1:
        clip_gradients(groups[0][1].trained, max_norm)
        return
    parts = [tensors.trained for _, tensors in groups]
    clip_gradients_in_parts(parts, max_norm, lambda part: trace.enter_group(None if part is None else groups[part][0]))


def _attention(step: Step) -> str | None:
    return "eager" if step.kind == "reference" else None


def _forward(model: Any, step: Step, batch: FlatBatch, *, weights_changed: bool) -> Tensor:
    with autocast(step.precision, "cpu"):
        if step.kind == "tunesmith":
            output = model(flat=batch, denominator=batch.num_targets, weights_changed=weights_changed)
            return output.loss  # type: ignore[no-any-return]
        ids = torch.zeros(len(step.micro_batch), max(step.micro_batch), dtype=torch.int64)
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss  # type: ignore[no-any-return]


class Layers:
    """The list of a model's layers, shortened to a few groups of like ones, and marked in the trace."""

    def __init__(self, model: Any, config: PretrainedConfig, *, shorten: bool) -> None:
        """shorten: take layers out until five groups are left, when there are more and all are alike."""
        self.stack = layer_stack(model, config)
        self.period = period_of(config, len(self.stack))
        self.num_missing = 0
        num_groups, rest = divmod(len(self.stack), self.period)
        if shorten and rest == 0 and num_groups > MIN_GROUPS:
            self.num_missing = num_groups - MIN_GROUPS
            begin = (TEMPLATE + 1) * self.period
            del self.stack[begin : begin + self.num_missing * self.period]

    def groups(self, model: nn.Module) -> Groups:
        """The model's tensors by group of layers, in its order; all as one when no layer is missing."""
        if not self.num_missing:
            return [(None, Tensors(list(model.parameters()), list(model.buffers())))]
        groups: Groups = []
        of_layers = {id(tensor) for tensor in (*self.stack.parameters(), *self.stack.buffers())}
        first = next(self.stack.parameters())
        names = [id(parameter) for parameter in model.parameters()]
        position = names.index(id(first))
        outside = [parameter for parameter in model.parameters() if id(parameter) not in of_layers]
        before = [parameter for parameter in outside if names.index(id(parameter)) < position]
        after = [parameter for parameter in outside if names.index(id(parameter)) > position]
        buffers = [buffer for buffer in model.buffers() if id(buffer) not in of_layers]
        groups.append((None, Tensors(before, buffers)))
        for number in range(MIN_GROUPS):
            layers = self.stack[number * self.period : (number + 1) * self.period]
            groups.append((number, Tensors(list(layers.parameters()), list(layers.buffers()))))
        groups.append((None, Tensors(after, [])))
        return groups

    def mark(self, trace: Trace) -> None:
        """Let the trace know when each group begins, going forward and going backward."""
        if not self.num_missing:
            return
        for number, layer in enumerate(self.stack):
            group, place = divmod(number, self.period)
            if place == 0:
                layer.register_forward_pre_hook(partial(_enter, trace, group))
            if place == self.period - 1:
                layer.register_forward_hook(partial(_leave, trace, group))


def _enter(trace: Trace, group: int, *_: Any) -> None:
    if trace.current_phase != "backward":  # there, a checkpointed layer runs once more
        trace.enter_group(group)


def _leave(trace: Trace, group: int, module: Any, args: Any, output: Any) -> None:
    if trace.current_phase == "backward":
        return
    hidden = output[0] if isinstance(output, tuple) else output
    if hidden.requires_grad:
        hidden.register_hook(lambda _: trace.enter_group(group))
    if group == MIN_GROUPS - 1:
        trace.enter_group(None)


def layer_stack(model: Any, config: PretrainedConfig) -> nn.ModuleList:
    """The list of the model's layers. Raises ModelError when there is none."""
    wanted = config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise ModelError(f"{type(model).__name__}: no list of {wanted} layers found. This structure cannot be planned.")


def period_of(config: PretrainedConfig, num_layers: int) -> int:
    """After how many layers the kinds of layers repeat: 2 for GPT-Neo's global, local, global, local."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or getattr(text, "attention_layers", None)
    if not kinds:
        return 1
    kinds = list(kinds)[:num_layers]
    for period in range(1, num_layers + 1):
        if all(kinds[number] == kinds[number % period] for number in range(num_layers)):
            return period
    return num_layers


def with_8bit_state(log: Log, trained: str = "float32") -> Log:
    """The log as it is with `fast.eight_bit`: two bytes and two scales for 256 values, float32 below 4,096.

    trained: type of the weights that train, and so of the moments in the log.
    """

    def size(event: Event) -> int:
        number = event.num_bytes // DTYPES[trained].itemsize
        if log.labels.get(event.storage) != "optimizer":
            return event.num_bytes
        return number * 4 if number < SMALLEST else number + 4 * -(-number // BLOCK)

    segments = [
        Segment(part.phase, part.group, [event._replace(num_bytes=size(event)) for event in part.events], part.work)
        for part in log.segments
    ]
    return Log(segments, log.labels, log.num_trained)


def with_places(log: Log, num_layers: int) -> Log:
    """The log with room for two layers in the place of the frozen weights of all, as `fast.streamed` has it."""
    streamed = {storage for storage, label in log.labels.items() if label == IN_LAYERS}
    total = sum(event.num_bytes for event in log.events() if event.born and event.storage in streamed)
    segments = [
        Segment(part.phase, part.group, [event for event in part.events if event.storage not in streamed], part.work)
        for part in log.segments
    ]
    place = 1 + max((event.storage for event in log.events()), default=0)
    segments[0].events.insert(0, Event(place, PLACES * total // num_layers, True))
    labels = {storage: label for storage, label in log.labels.items() if storage not in streamed}
    return Log(segments, {**labels, place: "weights"}, log.num_trained)


def _twice(log: Log) -> Log:
    """The log with a second optimizer step between the first and the evaluation.

    It is the first step again, beside what that one left: the optimizer's state.
    """
    names = ("forward", "backward", "clip", "optimizer", "zero_grad")
    first = [segment for segment in log.segments if segment.phase in names]
    dying = {event.storage for segment in first for event in segment.events if not event.born}
    last = max(event.storage for event in log.events())
    renamed = {storage: last + 1 + number for number, storage in enumerate(sorted(dying))}
    second = [
        Segment(
            segment.phase,
            segment.group,
            [event._replace(storage=renamed[event.storage]) for event in segment.events if event.storage in dying],
        )
        for segment in first
    ]
    labels = {**log.labels, **{renamed[old]: log.labels[old] for old in dying if old in log.labels}}
    evaluation = next(number for number, segment in enumerate(log.segments) if segment.phase == "evaluation")
    return Log([*log.segments[:evaluation], *second, *log.segments[evaluation:]], labels, log.num_trained)
