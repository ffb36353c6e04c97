"""result.json, metrics.jsonl, samples.jsonl and status.json: what a run measures, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from tunesmith.run.artefacts.record import Artefact, JsonObject, Record


class Event(Record):
    """Something out of the ordinary that a run survived."""

    step: int
    """The step that it happened in."""
    kind: str
    """`out_of_memory` or `loss_spike`."""
    note: str
    """What happened and what was done, as the log says it."""


class EvalScores(Record):
    """Held-out scores, under the names of metrics.jsonl and result.json."""

    eval_loss: float
    eval_perplexity: float
    eval_bits_per_byte: float
    eval_token_accuracy: float


class Result(Artefact):
    """result.json: final metrics. What was not measured is null."""

    FILE: ClassVar[str] = "result.json"
    VERSION: ClassVar[int] = 2
    OLDER: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"version": 1, "fed_tokens_per_second": None, "test_loss": None, "hardware": None, "ended": None}
    )

    version: int = 2
    train_loss: float | None
    """Mean of the steps' losses, each the mean over its supervised tokens, in nats."""
    eval_loss: float | None
    """Of the tuned model on the held-out rows; null before its first evaluation. The arithmetic is the plan's."""
    eval_loss_base: float | None
    """Of the base model on the same rows, before the first step."""
    eval_perplexity: float | None
    """exp(eval_loss)."""
    eval_perplexity_base: float | None
    """exp(eval_loss_base)."""
    eval_bits_per_byte: float | None
    """Of the held-out text: comparable between tokenizers."""
    eval_bits_per_byte_base: float | None
    """Of the base model."""
    eval_token_accuracy: float | None
    """Share of the held-out tokens that were the likeliest, 0 to 1."""
    eval_token_accuracy_base: float | None
    """Of the base model."""
    test_loss: float | None
    """Of the test rows, scored once at the end."""
    best_eval_loss: float | None
    """The lowest of all evaluations during training; the tuned model's where its weights were kept."""
    best_step: int | None
    """The step of best_eval_loss."""
    last_eval_loss: float | None = None
    """After the last step."""
    num_evaluations: int | None = None
    """Of the model in training: the lowest of many flatters."""
    ended_early: bool = False
    """Before the last step of the plan, because the held-out loss no longer fell."""
    train_tokens: int
    """Supervised tokens that were trained on."""
    train_seconds: float
    """In optimizer steps."""
    tokens_per_second: float | None
    """Supervised tokens a second of training."""
    fed_tokens_per_second: float | None
    """All tokens that went through the model, the ones that are only read too."""
    samples_per_second: float | None
    """Documents a second of training."""
    total_seconds: float
    """Of the whole run, those before a resume included."""
    save_seconds: float
    """In checkpoints."""
    eval_seconds: float
    """In evaluations, the base model's too."""
    prepare_seconds: float = 0.0
    """Before the first step: self-test, rehearsal, recording of steps."""
    energy_joules: float | None = None
    """Of the GPUs, by their own counters, whatever ran there; null where nothing measures it."""
    peak_bytes: int
    """Most memory at one time: reserved on a GPU, resident in a process on a CPU; of the first process."""
    steps: int
    """Optimizer steps that were made."""
    hardware: str | None
    """What it trained on last: the GPU, or the processor and its cores."""
    ended: float | None
    """Seconds since 1970."""
    stopped: str | None
    """Why the run ended before its end; null when it is finished."""
    events: tuple[Event, ...]
    """What it survived."""

    @property
    def finished(self) -> bool:
        return self.stopped is None


class MetricsLine(Record):
    """A line of metrics.jsonl: an optimizer step (`loss`), or an evaluation (`eval_loss`)."""

    step: int
    """Optimizer steps made; 0 of the base model's evaluation."""
    epoch: float
    """Passes over the training documents so far."""
    time: float
    """Seconds of the run so far."""
    loss: float | None = None
    """Mean over the supervised tokens of the step, in nats."""
    learning_rate: float | None = None
    """Of this step."""
    grad_norm: float | None = None
    """Before clipping."""
    tokens_per_second: float | None = None
    """Supervised tokens a second since the line before."""
    fed_tokens_per_second: float | None = None
    """All tokens that went through the model since the line before."""
    peak_bytes: int | None = None
    """As in result.json, so far."""
    energy_joules: float | None = None
    """Of the GPUs of its first machine so far, all that runs on them counted; null where no counter says it."""
    eval_loss: float | None = None
    """As the four of result.json, at this step."""
    eval_perplexity: float | None = None
    eval_bits_per_byte: float | None = None
    eval_token_accuracy: float | None = None

    def to_json(self) -> JsonObject:
        return self.model_dump(mode="json", exclude_none=True)


class WrittenText(Record):
    """What the model in training wrote after a prompt; the prompt is not part of `text`."""

    prompt: str
    text: str
    ended: bool
    """By itself, before the length limit."""
    is_answer: bool
    """The prompt was a user's turn, which `text` answers and does not continue."""

    @property
    def whole(self) -> str:
        """Both, as one reads them."""
        return f"{self.prompt} / {self.text}" if self.is_answer else self.prompt + self.text


class SamplesLine(Record):
    """A line of samples.jsonl: the texts of one evaluation, the same prompts with the same random numbers each time."""

    step: int
    """0: of the base model."""
    texts: tuple[WrittenText, ...]


State = Literal["waiting", "running", "stopping", "stopped", "finished", "failed", "crashed"]


class Status(Artefact):
    """status.json: where a run stands, for other programs; its last word stays."""

    FILE: ClassVar[str] = "status.json"
    VERSION: ClassVar[int] = 2
    OLDER: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"version": 1, "doing": "", "loss": None, "eval_loss": None, "tokens_per_second": None, "seconds_left": None}
    )

    version: int = 2
    state: State
    """As `tunesmith status` says it."""
    doing: str
    """training, evaluating 20/150, ..."""
    step: int
    """Optimizer steps made."""
    num_steps: int
    """As planned; 0 before the plan."""
    loss: float | None
    """Of the newest line of metrics.jsonl."""
    eval_loss: float | None
    """Of the newest evaluation."""
    tokens_per_second: float | None
    """Of the newest line of metrics.jsonl."""
    seconds_left: float | None
    """By the time that steps, evaluations and saves took so far."""
    pid: int
    """Of the first process."""
    host: str
    """The name of its machine."""
    boot: str
    """Of the machine that it ran on, so that a restart is seen."""
    updated: float
    """Seconds since 1970."""
