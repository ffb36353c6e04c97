"""One optimizer step, assembled once: model, adapter, fast path, checkpointing, optimizer, clipping, arithmetic.

Training runs what is made here, the plan traces it on tensors without values, and the benchmarks time it. So a forecast
is one of the step that is trained, by construction.

    settings = StepSettings.of(plan)
    model = prepare_model(model, settings)
    optimizer = make_optimizer(model.parameters(), settings)
    with autocast(settings.precision, "cpu"):
        loss = model(flat=batch, denominator=num_targets).loss
    loss.backward()
    norm = clip_gradients(model.parameters(), settings.max_grad_norm)
    optimizer.step()
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunesmith import fast
from tunesmith.compat import enable_checkpointing
from tunesmith.errors import TrainingError
from tunesmith.fast.device import Device
from tunesmith.fast.optimizers.adafactor import RoundingAdafactor
from tunesmith.fast.optimizers.eight_bit import RoundingAdamW8bit
from tunesmith.fast.optimizers.muon import RoundingMuon, is_hidden_matrix, mark_layers
from tunesmith.fast.optimizers.rounding import RoundingAdamW
from tunesmith.fast.streamed import stream_layers
from tunesmith.machine.memory import is_out_of_memory, release_memory
from tunesmith.models.adapters import attach_lora
from tunesmith.recipe import LoraSection
from tunesmith.run.artefacts import Offload, Optimizer, Plan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepSettings:
    """Everything that decides how a model is made ready and updated; what it is fed is not among it."""

    method: Literal["full", "lora", "dora", "qlora"] = "full"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of the arithmetic: fp32, or autocast to bf16 or fp16."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which the model's weights are held; adapters are always float32."""
    optimizer: Optimizer = "adamw"
    gradient_checkpointing: bool = False
    offload: Offload = "none"
    compile: bool = False
    fast: bool = True
    """False: transformers' own attention and loss, as a plain Trainer runs them."""
    lora: LoraSection = field(default_factory=LoraSection)
    learning_rate: float = 2.0e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Infinite: gradients are not clipped."""
    seed: int = 7

    @classmethod
    def of(cls, plan: Plan) -> StepSettings:
        """What a run was planned to do."""
        return cls(
            method=plan.method,
            precision=plan.precision,
            dtype=plan.dtype,
            optimizer=plan.optimizer,
            gradient_checkpointing=plan.gradient_checkpointing,
            offload=plan.offload,
            compile=plan.compile,
            lora=plan.lora or LoraSection(),
            learning_rate=plan.learning_rate,
            weight_decay=plan.weight_decay,
            max_grad_norm=clip_norm(plan.max_grad_norm),
            seed=plan.seed,
        )


def clip_norm(max_grad_norm: float | None) -> float:
    """What gradients are clipped to; without a limit their norm is only taken."""
    return math.inf if max_grad_norm is None else max_grad_norm


def prepare_model(model: Any, settings: StepSettings, device: Device | None = None) -> Any:
    """A loaded model with the fast path, its adapter and checkpointing; in training mode.

    For qlora its weights were quantised when it was loaded. device: what is known of the device, by default that on
    which the model is; with `offload` the model comes from the CPU, and all but its frozen layers goes there. Raises
    ModelError when the model's structure is not known, or lora.target names no layer of it.
    """
    if settings.fast:
        fast.apply(model, compile=settings.compile, device=device)
    if settings.method != "full":
        model = attach_lora(model, settings.lora, settings.method)
        if settings.fast:
            fast.fuse_adapters(model, device=device)
    if settings.gradient_checkpointing and settings.offload == "none":
        drops = has_dropout(model.config, settings.lora if settings.method != "full" else None)
        enable_checkpointing(model, preserve_rng_state=drops)  # a step that is recorded cannot look at random numbers
        if settings.method != "full":
            model.enable_input_require_grads()
    mark_layers(model)
    if settings.offload == "layers":
        drops = has_dropout(model.config, settings.lora)
        stream_layers(model, torch.device((device or Device.of(model.device)).type), preserve_rng_state=drops)
    return model.train()


def has_dropout(config: Any, lora: LoraSection | None = None) -> bool:
    """Whether a model of this configuration, or its adapter, draws random numbers in training."""
    others = ("classifier", "summary")  # of heads that a causal language model has not
    values = (value for name, value in vars(config).items() if "drop" in name and not name.startswith(others))
    return any(isinstance(value, float) and value > 0 for value in values) or (lora is not None and lora.dropout > 0)


def autocast(precision: str, device_type: str) -> contextlib.AbstractContextManager[Any]:
    """The arithmetic of a step and of its evaluation."""
    kind = AUTOCAST.get(precision)
    return contextlib.nullcontext() if kind is None else torch.autocast(device_type, dtype=kind)


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: StepSettings, device: Device | None = None
) -> torch.optim.Optimizer:
    """The optimizer of those of the parameters that train; weight decay on matrices only.

    device: what is known of it, by default that on which the parameters are.

    Weights in bfloat16 are rounded at random, or small updates would be lost, by every optimizer. For others torch's
    fused AdamW takes 0.16 s where the foreach one takes 0.57 s (125M parameters, 2 cores), and allocates nothing.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = _groups(trained, settings)
    special = {
        "adamw8bit": ReadyRoundingAdamW8bit, "adafactor": ReadyRoundingAdafactor, "muon": ReadyRoundingMuon,
    }.get(settings.optimizer)  # fmt: skip
    if special is not None:
        return special(groups, settings.learning_rate, settings.seed)
    if any(parameter.dtype == torch.bfloat16 for parameter in trained):
        fused = (device or Device.of(trained[0].device)).fused
        return ReadyRoundingAdamW(groups, settings.learning_rate, settings.seed, fused=fused)
    return ReadyAdamW(groups, settings.learning_rate)


def _groups(trained: list[nn.Parameter], settings: StepSettings) -> list[dict[str, Any]]:
    """Matrices, and what is none; Muon's own matrices apart."""
    hidden = [p for p in trained if is_hidden_matrix(p)] if settings.optimizer == "muon" else []
    apart = {id(parameter) for parameter in hidden}
    groups: list[dict[str, Any]] = [
        {"params": hidden, "weight_decay": settings.weight_decay, "muon": True},
        {"params": [p for p in trained if p.ndim >= 2 and id(p) not in apart], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients in place until their common norm is at most `max_norm`. Returns the norm before."""
    norm: Tensor = torch.nn.utils.clip_grad_norm_(list(parameters), max_norm)
    return norm


def clip_gradients_in_parts(
    parts: Sequence[Sequence[nn.Parameter]], max_norm: float, begin: Callable[[int | None], object]
) -> Tensor:
    """As `clip_gradients` over all parts together. begin(number) is told before each part's norms are taken, and
    begin(None) before the whole is scaled: a trace asks which layers an allocation belongs to."""
    norms = []
    for number, part in enumerate(parts):
        begin(number)
        norms += [torch.linalg.vector_norm(parameter.grad) for parameter in part if parameter.grad is not None]
    begin(None)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    del norms
    for part in parts:
        torch.nn.utils.clip_grads_with_norm_(part, max_norm, total)
    return total


class ReadyState(torch.optim.Optimizer):
    """State exists from the start, so that a state which does not fit shows before step 1.

    Raises TrainingError then, after freeing what is cached and trying again.
    """

    def begin(self) -> None:
        """The state before any step, in the memory of the present one where there is one."""
        for attempt in (1, 2):
            try:
                for parameter in (p for group in self.param_groups for p in group["params"]):
                    self._begin_parameter(parameter)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if attempt == 2:
                    raise TrainingError(
                        "the optimizer's state (two numbers a trained parameter) does not fit in memory. "
                        "Set train.method: lora, or train.optimizer: adafactor."
                    ) from None
            release_memory()

    def _begin_parameter(self, parameter: Tensor) -> None:
        if parameter not in self.state:
            self.state[parameter] = self.new_state(parameter)
            return
        for tensor in self.state[parameter].values():
            tensor.zero_()

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """A parameter's state before any step."""
        raise NotImplementedError


class ReadyAdamW(ReadyState, torch.optim.AdamW):
    """torch's fused AdamW. On a GPU it reads the learning rate from there, so that an update can be recorded."""

    def __init__(self, groups: list[dict[str, Any]], rate: float) -> None:
        super().__init__(groups, lr=rate, fused=True)
        devices = [group["params"][0].device for group in self.param_groups]
        self._rates = [torch.zeros((), device=device) for device in devices if device.type == "cuda"]
        self.begin()

    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        self.load_rates()
        self.launch()

    def load_rates(self) -> None:
        """Bring the learning rates of the groups to the GPU. A replayed `launch` updates by them."""
        for rate, group in zip(self._rates, self.param_groups, strict=bool(self._rates)):
            rate.fill_(group["lr"])

    def launch(self) -> None:
        """One update, on a GPU by the rates that are there: nothing is read from the host."""
        if not self._rates:
            super().step()
            return
        held = [group["lr"] for group in self.param_groups]
        capturing = self._rates[0].is_cuda and torch.cuda.is_current_stream_capturing()
        try:
            for group, rate in zip(self.param_groups, self._rates, strict=True):
                group.update(lr=rate, capturable=capturing)  # torch warns of a capturable update that is not captured
            super().step()
        finally:
            for group, number in zip(self.param_groups, held, strict=True):
                group.update(lr=number, capturable=False)

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }


class ReadyRoundingAdamW(RoundingAdamW, ReadyState):
    """AdamW over bfloat16 weights."""

    def __init__(self, groups: list[dict[str, Any]], rate: float, seed: int, *, fused: bool = False) -> None:
        super().__init__(groups, rate, seed=seed, fused=fused)
        self.begin()

    def begin(self) -> None:
        super().begin()
        for group in self.param_groups:
            group["step"] = 0


class ReadyRoundingAdamW8bit(RoundingAdamW8bit, ReadyRoundingAdamW):
    """AdamW with moments of 8 bits."""


class ReadyRoundingAdafactor(RoundingAdafactor, ReadyRoundingAdamW):
    """A number for each row and each column instead of moments."""


class ReadyRoundingMuon(RoundingMuon, ReadyRoundingAdamW):
    """One moment in the layers, AdamW around them."""
