"""plan.json: what was decided, predicted and, after the run, measured."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from tunesmith.recipe import Every, LoraSection
from tunesmith.run.artefacts.record import Artefact, Record

Method = Literal["full", "lora", "dora", "qlora"]
Precision = Literal["fp32", "bf16", "fp16"]
Dtype = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adamw", "adamw8bit", "adafactor", "muon"]
Sharding = Literal["none", "full"]
Offload = Literal["none", "layers"]
Schedule = Literal["linear", "cosine", "constant"]
Fit = Literal["fits", "tight", "no"]
ASKED = "the recipe says so"
"""The reason of a decision that the recipe made."""


class PredictedMemory(Record):
    """Bytes at the peak of a step; `components` sum to what is allocated."""

    device: Literal["cpu", "cuda"]
    peak_bytes: int
    """As the system shows it: reserved, and what the process holds besides."""
    allocated_bytes: int
    reserved_bytes: int
    """Held by the allocator, in use or not."""
    base_bytes: int
    """Of the process before the model: libraries, context."""
    components: dict[str, int]
    """Weights, gradients, optimizer, activations and what else is held then."""
    phases: dict[str, int]
    """The highest of each phase of a step."""


class PredictedTime(Record):
    """Seconds of the whole run. `origin` says how the rates are known."""

    train_seconds: float
    """In optimizer steps."""
    eval_seconds: float
    """In all evaluations, the base model's too."""
    num_evaluations: int
    save_seconds: float
    num_saves: float
    load_seconds: float
    """Before the run: libraries, model, data."""
    tokens_per_second: float
    """Supervised tokens, in optimizer steps."""
    flops_per_token: float
    """Forward and backward, a token that is fed."""
    origin: str
    """How the rates are known: real steps here, or the data sheet."""
    run_seconds: float
    """Steps, evaluations and saves: what result.json calls total_seconds."""
    total_seconds: float
    """run_seconds and load_seconds."""


class PredictedDisk(Record):
    """What the run will take on its disk, in bytes."""

    checkpoint_bytes: int
    """Of one checkpoint."""
    num_checkpoints: int
    """The most that lie there at one time."""
    model_bytes: int
    """Of the tuned model."""
    best_bytes: int = 0
    """The weights of the lowest held-out loss, beside the checkpoints."""
    cache_bytes: int
    """Prepared data and unpacked models in the user's cache."""
    free_bytes: int | None
    """On the disk of the run; null on another machine."""
    total_bytes: int
    """At the most."""


class Predicted(Record):
    """What a run will take. The first four have the meaning that result.json gives them."""

    peak_bytes: int
    train_seconds: float
    total_seconds: float
    tokens_per_second: float
    """Supervised tokens."""
    fit: Fit
    """no: it runs out of memory; tight: it may."""
    capacity_bytes: int
    """What the device has to give."""
    memory: PredictedMemory
    time: PredictedTime
    disk: PredictedDisk


class MeasuredRun(Record):
    """What it took, and each as a share of what was predicted."""

    peak_bytes: int | None
    train_seconds: float | None
    total_seconds: float | None
    tokens_per_second: float | None
    """Supervised tokens."""
    of_predicted: dict[str, float]
    """Measured / predicted, by the names above."""


class Plan(Artefact):
    """plan.json: every value that training uses, each with an entry in `reasons`; nothing downstream decides again."""

    FILE: ClassVar[str] = "plan.json"
    VERSION: ClassVar[int] = 2
    OLDER: ClassVar[Mapping[str, Any]] = MappingProxyType({"version": 1, "measured": None})

    version: int = 2
    method: Method
    precision: Precision
    """Type of the arithmetic: fp32, or autocast to bf16 or fp16."""
    dtype: Dtype
    """Type in which the model's weights are held; adapters are always float32."""
    optimizer: Optimizer
    learning_rate: float
    """Highest rate of the schedule."""
    schedule: Schedule
    warmup_steps: int
    weight_decay: float
    """On matrices only."""
    max_grad_norm: float | None
    """null: gradients are not clipped."""
    epochs: float
    num_steps: int
    tokens_per_step: int
    """Tokens per optimizer step over all processes."""
    micro_batch_tokens: int
    """Tokens per forward and backward pass on one device."""
    max_length: int
    """Longest document in tokens, its start and end included."""
    gradient_checkpointing: bool
    compile: bool
    cuda_graphs: bool = False
    """Steps of one pass are filled up to a few sizes, and on a GPU each of these is recorded and replayed."""
    update_in_backward: bool = False
    """Weights move while backward runs, so that no step holds all gradients; a clipped step runs its pass twice."""
    offload: Offload = "none"
    """layers: frozen weights stay in RAM and are copied to the device layer by layer."""
    sharding: Sharding = "none"
    """full: weights, gradients and optimizer are split over the processes."""
    lora: LoraSection | None
    """Of an adapter; None where all weights train."""
    eval_every: Every
    """Optimizer steps (50) or a duration (10m)."""
    save_every: Every
    """Optimizer steps (50) or a duration (10m)."""
    save_keep: int
    save_dtype: Dtype = "float32"
    """Type in which the tuned weights are written where the held-out loss allows; float32 where not."""
    early_stopping: int | None = None
    """Evaluations in a row without a lower held-out loss after which the run ends; the tuned model is the one with the
    lowest. null: all steps are made, and the last weights are the model."""
    rehearse: bool
    report_to: tuple[str, ...]
    seed: int
    device: Literal["cpu", "cuda"]
    num_processes: int
    reasons: dict[str, str]
    predicted: Predicted | None
    measured: MeasuredRun | None = None

    def decided(self) -> dict[str, object]:
        """The decided values by name, in order."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in _NOT_DECIDED}

    def continued_from(self, begun: Plan) -> Plan:
        """This plan for a run that was begun with another one: what shaped the steps that are done stays.

        Only the run's length and what follows from it may change, how often it is saved and scored, and what the recipe
        itself says of the steps to come.
        """
        names = [*CONTINUES_WITH, *(name for name in STEPS_TO_COME if self.reasons.get(name) == ASKED)]
        reasons = {name: self.reasons[name] for name in names if name in self.reasons}
        values = {name: getattr(self, name) for name in names}
        return begun.model_copy(update={**values, "reasons": {**begun.reasons, **reasons}, "measured": None})


_NOT_DECIDED = ("version", "reasons", "predicted", "measured")
CONTINUES_WITH = (
    "epochs",
    "num_steps",
    "eval_every",
    "save_every",
    "save_keep",
    "save_dtype",
    "early_stopping",
    "rehearse",
    "report_to",
    "device",
    "num_processes",
    "sharding",
)
"""Fields that a run takes from its new plan when it goes on."""
STEPS_TO_COME = ("learning_rate", "schedule", "weight_decay", "max_grad_norm", "seed")
"""Fields that it takes from there too where the recipe names them: other values were forced."""
