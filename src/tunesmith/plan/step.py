"""One optimizer step, traced: exactly what training runs, or what a plain Trainer with padded rows runs.

`trace_step` needs a config and no weights. `run_step` is the step itself, on any tensors: the forecast is tested by
running it on a real model and comparing.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from tunesmith import fast
from tunesmith.errors import ModelError
from tunesmith.fast.layout import FlatBatch
from tunesmith.plan import simulate
from tunesmith.plan.splice import MIN_GROUPS, TEMPLATE, NotAlike, repeat_layers
from tunesmith.plan.trace import Log, Segment, Trace
from tunesmith.recipe import LoraSection

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    """Everything that decides what one optimizer step allocates and computes."""

    micro_batch: tuple[int, ...]
    """Tokens that each document of the largest micro-batch feeds."""
    accumulates: bool = False
    """A step has more than one micro-batch, so gradients survive into the next forward pass."""
    method: Literal["full", "lora", "qlora"] = "full"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    gradient_checkpointing: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    flash: bool = True
    """The GPU has flash attention: Ampere or newer."""
    kind: Literal["tunesmith", "reference"] = "tunesmith"
    """reference: transformers' eager attention over padded rows (each entry of micro_batch is one row), with logits."""
    lora: LoraSection = field(default_factory=LoraSection)
    target_fraction: float = 1.0
    """Share of the fed tokens that are supervised."""

    @property
    def num_tokens(self) -> int:
        return sum(self.micro_batch)


def trace_step(config: PretrainedConfig, step: Step, *, splice: bool = True) -> Log:
    """Allocations and work of two optimizer steps and an evaluation pass, from the config alone.

    The first step creates the optimizer's state, the second runs beside it. `splice` traces four groups of like layers
    and repeats their record, which gives the same log in a fraction of the time.

    Raises ModelError when the model has a structure that is not known.
    """
    try:
        return _twice(_trace(config, step, splice=splice))
    except NotAlike:
        return _twice(_trace(config, step, splice=False))


def _trace(config: PretrainedConfig, step: Step, *, splice: bool) -> Log:
    from torch._subclasses.fake_tensor import FakeTensorMode

    batch = simulate.traced_batch(step.micro_batch, step.target_fraction)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        bare = simulate.build_on_meta(config, dtype=DTYPES[step.dtype], attention=_attention(step))
        model = prepare_model(bare, step)
        stack.enter_context(simulate.without_values())
        if step.device == "cuda":
            stack.enter_context(simulate.as_on_gpu(flash=step.flash))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        simulate.fakify(model)
        trace = stack.enter_context(Trace(logits_width=config.get_text_config().vocab_size, lengths=step.micro_batch))
        trace.hold((*model.parameters(), *model.buffers()), "weights")
        layers = _Layers(model, config, trace)
        if splice:
            layers.shorten()
        run_step(model, step, batch, trace, layers)
    log = layers.repeated(trace.log)
    log.num_trained = sum(parameter.numel() for parameter in layers.parameters if parameter.requires_grad)
    return log


def prepare_model(model: Any, step: Step) -> Any:
    """What training does to a loaded model: the fast path, the adapter, checkpointing."""
    from tunesmith.model import attach_lora

    if step.kind == "tunesmith":
        fast.apply(model)
    head = model.get_output_embeddings()
    if step.method != "full":
        model = attach_lora(model, step.lora, "lora")
    if step.method == "qlora":
        simulate.quantise(model, head)
    if step.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if step.method != "full":
            model.enable_input_require_grads()
    return model.train()


def run_step(model: Any, step: Step, batch: FlatBatch, trace: Trace, layers: _Layers | None = None) -> None:
    """One optimizer step and one evaluation pass under a trace that holds the model, on fake or real tensors."""
    parameters = layers.parameters if layers is not None else list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = _optimizer(trained, step)
    for number in range(2 if step.accumulates else 1):
        with trace.phase("forward"):
            loss = _forward(model, step, batch)
        trace.name_alive("activations", "forward")
        with trace.phase("backward"):
            loss.backward()
        del loss
        if number == 0 and layers is not None:
            layers.make_missing_gradients()
        trace.hold((p.grad for p in trained if p.grad is not None), "gradients")
    with trace.phase("optimizer"):
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    trace.name_alive("optimizer", "optimizer")
    with trace.phase("zero_grad"):
        for parameter in trained:
            parameter.grad = None
    with trace.phase("evaluation"), torch.no_grad():
        model.eval()
        _forward(model, step, batch)
        model.train()


def _attention(step: Step) -> str | None:
    return "eager" if step.kind == "reference" else None


def _forward(model: Any, step: Step, batch: FlatBatch) -> Tensor:
    autocast = contextlib.nullcontext()
    if step.precision in AUTOCAST:
        autocast = torch.autocast("cpu", dtype=AUTOCAST[step.precision])  # type: ignore[assignment]
    with autocast:
        if step.kind == "tunesmith":
            return model(flat=batch, denominator=batch.num_targets).loss  # type: ignore[no-any-return]
        ids = torch.zeros(len(step.micro_batch), max(step.micro_batch), dtype=torch.int64)
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss  # type: ignore[no-any-return]


def _optimizer(trained: list[nn.Parameter], step: Step) -> Any:
    if step.optimizer == "adamw8bit":
        return simulate.QuantisedState(trained)
    return torch.optim.AdamW(trained, lr=1e-4, fused=True)


class _Layers:
    """Shortens a model to a few groups of like layers, marks in the trace where each group begins, and repeats them."""

    def __init__(self, model: Any, config: PretrainedConfig, trace: Trace) -> None:
        self.trace = trace
        self.parameters = list(model.parameters())
        """Of the whole model, in its order."""
        self.stack = layer_stack(model, config)
        self.period = period_of(config, len(self.stack))
        self.missing: list[nn.Module] = []
        self.template: list[nn.Module] = []
        self.twins: list[dict[int, int]] = []

    def shorten(self) -> None:
        """Take layers out until five groups are left, when there are more and all are alike."""
        num_layers, kept = len(self.stack), MIN_GROUPS * self.period
        if num_layers <= kept or num_layers % self.period:
            return
        begin = (TEMPLATE + 1) * self.period
        end = begin + num_layers - kept
        self.missing = list(self.stack[begin:end])
        self.template = list(self.stack[begin - self.period : begin])
        del self.stack[begin:end]
        for number, layer in enumerate(self.stack):
            group, place = divmod(number, self.period)
            if place == 0:
                layer.register_forward_pre_hook(partial(self._enter, group))
            if place == self.period - 1:
                layer.register_forward_hook(partial(self._leave, group))

    def _enter(self, group: int, *_: Any) -> None:
        if self.trace.current_phase != "backward":  # there, a checkpointed layer runs once more
            self.trace.enter_group(group)

    def _leave(self, group: int, module: Any, args: Any, output: Any) -> None:
        if self.trace.current_phase == "backward":
            return
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self.trace.enter_group(group))
        if group == MIN_GROUPS - 1:
            self.trace.enter_group(None)

    def make_missing_gradients(self) -> None:
        """Gradients of the layers that are not run, as the optimizer needs them."""
        templates = [parameter for layer in self.template for parameter in layer.parameters()]
        with self.trace.phase("missing gradients"):
            for first in range(0, len(self.missing), self.period):
                group = self.missing[first : first + self.period]
                twins = {}
                parameters = [parameter for layer in group for parameter in layer.parameters()]
                for parameter, template in zip(parameters, templates, strict=True):
                    if parameter.requires_grad and template.grad is not None:
                        parameter.grad = torch.empty_like(template.grad)
                        twins[self.trace.storage_of(template.grad)] = self.trace.storage_of(parameter.grad)
                self.twins.append(twins)

    def repeated(self, log: Log) -> Log:
        """The log of the whole model. Raises NotAlike when the layers do not do the same."""
        return repeat_layers(log, len(self.twins), self.twins) if self.missing else log


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


def _twice(log: Log) -> Log:
    """The log with a second optimizer step between the first and the evaluation.

    It is the first step again, beside what that one left: the optimizer's state.
    """
    names = ("forward", "backward", "optimizer", "zero_grad")
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
