"""A device, a choice of what decides memory and speed, and the memory that it takes there."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.evaluate import LEAST_TOKENS
from tunesmith.forecast.exchange import Exchange, Exchanged, exchange_of, with_buckets
from tunesmith.forecast.memory import MemoryForecast, forecast_memory, sharded
from tunesmith.forecast.shapes import ModelShape
from tunesmith.forecast.tracing.simulate import NF4_BYTES
from tunesmith.forecast.tracing.step import Step, trace_step, with_8bit_state, with_places
from tunesmith.forecast.tracing.trace import Log
from tunesmith.forecast.workload import Steps, Workload, reference_rows
from tunesmith.forecast.workspaces import workspace_bytes
from tunesmith.machine.detect import Machine
from tunesmith.machine.driver import CONTEXT_BYTES
from tunesmith.machine.gpus import Gpu
from tunesmith.machine.interconnect import Network, network_of_processors
from tunesmith.models.positions import document_length
from tunesmith.recipe import Recipe

Fit = Literal["fits", "tight", "no"]
Method = Literal["full", "lora", "dora", "qlora"]
Precision = Literal["fp32", "bf16", "fp16"]
Dtype = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adamw", "adamw8bit", "adafactor", "muon"]
Sharding = Literal["none", "full"]

WEIGHT_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
FITS = 0.92
"""Share of the memory that a run may take and still be said to fit: forecasts are not exact, other programs breathe."""
TIGHT = 0.99


@dataclass(frozen=True)
class Target:
    """A device that a run is planned for."""

    name: str
    device: Literal["cpu", "cuda"]
    capacity_bytes: int
    """What the process may take in all, the CUDA context included."""
    base_bytes: int
    """What it takes before any tensor."""
    bf16: bool
    flash: bool
    gpu: Gpu | None = None
    num_processes: int = 1
    here: bool = True
    """The machine this runs on, rather than one to be rented."""
    workspace_bytes: int = 0
    """What cuBLAS takes there for each thread."""
    fused: bool = True
    """A GPU has Triton, so that layers run in few launches."""
    network: Network | None = None
    """What joins several processes."""

    @classmethod
    def of_machine(cls, machine: Machine, gpu: Gpu | None) -> Target:
        """This machine. Free memory counts, not what the device has; without a GPU its processes share it."""
        import psutil

        on_gpu = machine.device == "cuda"
        base = CONTEXT_BYTES if on_gpu else psutil.Process().memory_info().rss
        processes, nodes = machine.num_processes, machine.num_nodes
        free = machine.memory_free_bytes if on_gpu else machine.memory_free_bytes * nodes // processes
        network = None
        if processes > 1:
            network = Network.of_gpus(gpu, processes, nodes) if on_gpu else network_of_processors(processes, nodes)
        return cls(
            name=machine.name,
            device=machine.device,
            capacity_bytes=free + base,
            base_bytes=base,
            bf16=machine.supports_bf16,
            flash=on_gpu and machine.supports_bf16,
            gpu=gpu,
            num_processes=processes,
            workspace_bytes=workspace_bytes(_capability(gpu)) if on_gpu else 0,
            fused=importlib.util.find_spec("triton") is not None,
            network=network,
        )

    @classmethod
    def of_gpu(cls, gpu: Gpu, network: Network | None = None) -> Target:
        """An empty GPU of the table, or one of several that a network joins."""
        return cls(
            name=gpu.name,
            device="cuda",
            capacity_bytes=gpu.memory_bytes,
            base_bytes=CONTEXT_BYTES,
            bf16=gpu.bf16,
            flash=gpu.bf16,
            gpu=gpu,
            num_processes=1 if network is None else network.num_processes,
            here=False,
            workspace_bytes=workspace_bytes(gpu.capability),
            network=network,
        )

    def fit(self, memory: MemoryForecast) -> Fit:
        share = memory.peak_bytes / self.capacity_bytes
        return "fits" if share <= FITS else "tight" if share <= TIGHT else "no"


def _capability(gpu: Gpu | None) -> tuple[int, int]:
    """Of a GPU of the table, or of the one that is here."""
    import torch

    return gpu.capability if gpu is not None else torch.cuda.get_device_capability()


@dataclass(frozen=True)
class Choice:
    """What decides memory and speed."""

    method: Method
    precision: Precision
    dtype: Dtype
    optimizer: Optimizer
    gradient_checkpointing: bool
    tokens_per_step: int
    micro_batch_tokens: int
    update_in_backward: bool = False
    sharding: Sharding = "none"
    offload: bool = False
    """Frozen layers stay in RAM."""


@dataclass(frozen=True)
class Found:
    """A choice, what it takes, and whether that fits."""

    choice: Choice
    memory: MemoryForecast
    fit: Fit
    max_length: int | None = None
    """train.max_length, where it is not what the recipe asks for."""
    num_processes: int | None = None
    """Where it is another number than was planned for."""


@dataclass
class Forecaster:
    """Memory of choices for one recipe, model and data. Each step is traced once, whatever the number of devices."""

    recipe: Recipe
    shape: ModelShape
    workload: Workload
    _logs: dict[Step, Log] = field(default_factory=dict, repr=False)
    _steps: dict[int, Steps] = field(default_factory=dict, repr=False)
    _memory: dict[tuple[Step, Optimizer, bool, int, int], MemoryForecast] = field(default_factory=dict, repr=False)

    @property
    def max_length(self) -> int:
        """Of the longest document, as it is prepared."""
        return document_length(self.recipe.train.max_length, self.shape.max_positions)

    def steps(self, tokens_per_step: int) -> Steps:
        if tokens_per_step not in self._steps:
            self._steps[tokens_per_step] = self.workload.steps(self.recipe, tokens_per_step)
        return self._steps[tokens_per_step]

    def step(self, choice: Choice, target: Target) -> Step:
        """The step that a choice leads to, with its largest micro-batch."""
        common: dict[str, Any] = {
            "method": choice.method,
            "precision": choice.precision,
            "dtype": choice.dtype,
            "gradient_checkpointing": choice.gradient_checkpointing,
            "device": target.device,
            "flash": target.flash,
            "fused": target.device == "cpu" or (target.fused and not choice.offload),
            "optimizer": "adamw" if choice.optimizer == "adamw8bit" else choice.optimizer,
            "lora": self.recipe.lora,
            "num_added": self.shape.num_added,
            "update_in_backward": choice.update_in_backward,
            "clips": self.recipe.train.max_grad_norm is not None,
        }
        if self.recipe.train.loop == "reference":
            rows, passes = reference_rows(self.recipe, self.max_length)
            batch = (self.max_length,) * rows
            return Step(micro_batch=batch, accumulates=passes > 1, kind="reference", **common)
        steps = self.steps(choice.tokens_per_step)
        train = self.workload.train
        return Step(
            micro_batch=steps.worst_micro_batch(choice.micro_batch_tokens, target.num_processes),
            accumulates=choice.micro_batch_tokens * target.num_processes < steps.largest,
            target_fraction=min(1.0, train.num_targets / train.num_tokens),
            scored_batch=self._scored_batch(choice, target),
            **common,
        )

    def _scored_batch(self, choice: Choice, target: Target) -> tuple[int, ...]:
        """What an evaluation needs at once. On a GPU without the room for it, it goes on with half as much."""
        if target.device == "cuda":
            return ()
        return self.workload.eval.longest_batch(max(choice.micro_batch_tokens, LEAST_TOKENS))

    def shortened(self, max_length: int) -> Forecaster:
        """The same with documents of at most so many tokens."""
        recipe = self.recipe.with_values(**{"train.max_length": max_length})
        return Forecaster(recipe, self.shape, self.workload.cut(max_length - 1))

    def log(self, step: Step) -> Log:
        if step not in self._logs:
            self._logs[step] = trace_step(self.shape.config, step)
        return self._logs[step]

    def memory(self, choice: Choice, target: Target) -> MemoryForecast:
        """What a choice takes on a device."""
        step = self.step(choice, target)
        key = (step, choice.optimizer, choice.offload, target.base_bytes, target.workspace_bytes)
        if key not in self._memory:
            log = self.log(step)
            if choice.optimizer == "adamw8bit":
                log = with_8bit_state(log, choice.dtype if choice.method == "full" else "float32")
            if choice.offload:
                log = with_places(log, self.shape.config.get_text_config().num_hidden_layers)
            self._memory[key] = forecast_memory(
                log,
                target.device,
                precision=choice.precision,
                base_bytes=target.base_bytes,
                workspace_bytes=target.workspace_bytes,
            )
        return self._of_one_process(self._memory[key], step, choice, target)

    def _of_one_process(self, memory: MemoryForecast, step: Step, choice: Choice, target: Target) -> MemoryForecast:
        """Of several: its shards, or its copy with what DDP takes beside it."""
        if target.num_processes == 1:
            return memory
        if choice.sharding == "none":
            return with_buckets(memory, self._exchanged(step, choice).gradient_bytes)
        gathered = self._gathered_bytes(choice)
        return sharded(memory, target.num_processes, gathered, accumulates=step.accumulates)

    def exchange(self, choice: Choice, target: Target) -> Exchange:
        """What the processes of a choice exchange, and how they share a step."""
        step = self.step(choice, target)
        return exchange_of(
            target.network,
            self._exchanged(step, choice),
            sharded=choice.sharding == "full",
            share=self.steps(choice.tokens_per_step).largest_share(target.num_processes),
            pass_tokens=choice.micro_batch_tokens,
            checkpointed=choice.gradient_checkpointing,
        )

    def _exchanged(self, step: Step, choice: Choice) -> Exchanged:
        trained_dtype = choice.dtype if choice.method == "full" else "float32"
        return Exchanged(
            weight_bytes=self.shape.num_parameters * WEIGHT_BYTES[choice.dtype],
            gradient_bytes=self.log(step).num_trained * WEIGHT_BYTES[trained_dtype],
            num_layers=self.shape.config.get_text_config().num_hidden_layers,
        )

    def _gathered_bytes(self, choice: Choice) -> int:
        """What is whole at a time: what stands outside the layers, and two layers, with their gradients."""
        config = self.shape.config.get_text_config()
        outside = config.vocab_size * config.hidden_size
        layer = max(0, self.shape.num_parameters - outside) // config.num_hidden_layers
        return int(2 * (outside + 2 * layer) * WEIGHT_BYTES[choice.dtype])

    def _num_outside(self) -> int:
        """Parameters of the embedding and of a head of its own."""
        config = self.shape.config.get_text_config()
        return int(config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2))

    def bytes_in_ram(self, choice: Choice) -> int:
        """What frozen layers take that stay there."""
        each = NF4_BYTES if choice.method == "qlora" else WEIGHT_BYTES[choice.dtype]
        return int(max(0, self.shape.num_parameters - self._num_outside()) * each)

    def least_bytes(self, choice: Choice, num_processes: int = 1) -> int:
        """What weights, gradients and optimizer alone take: a bound that needs no trace."""
        number = self.shape.num_parameters / (num_processes if choice.sharding == "full" else 1)
        held = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}[choice.dtype]
        if choice.offload:
            return int(self._num_outside() * held)
        if choice.method == "qlora":
            return int(number * NF4_BYTES)
        moments = {"adamw": 2 * held, "adamw8bit": 2.0, "muon": held, "adafactor": 0.0}[choice.optimizer]
        return int(number * (held if choice.method in ("lora", "dora") else held + moments))
