"""What lies in a run directory, as values: one frozen model for each artefact, written whole and read with care.

Whoever writes an artefact gives every field. Whoever reads one meets files of older versions and damaged ones: `parse`
fills what an older version did not write (`OLDER`) and ignores what it does not know; `salvage` also leaves out what
has an unexpected shape and says so. docs/run-directory.md is made from these classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from tunesmith.errors import RunError
from tunesmith.recipe import CompareSection, Every, LoraSection

Method = Literal["full", "lora", "qlora"]
Precision = Literal["fp32", "bf16", "fp16"]
Dtype = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adamw", "adamw8bit"]
Schedule = Literal["linear", "cosine", "constant"]
Fit = Literal["fits", "tight", "no"]
ASKED = "the recipe says so"
"""The reason of a decision that the recipe made."""
JsonObject = dict[str, Any]
"""A JSON object before it was checked, or after it was written out."""


class Record(BaseModel):
    """A frozen part of an artefact."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    OLDER: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Values of the fields that older versions did not write."""

    def to_json(self) -> JsonObject:
        """As it is written; numbers that are not finite are the writer's business (`disk.finite`)."""
        return self.model_dump(mode="json")

    @classmethod
    def parse(cls, values: JsonObject, where: str) -> Self:
        """Check what was read. Raises RunError that names every part of an unexpected shape."""
        try:
            return cls.model_validate({**cls.OLDER, **values})
        except ValidationError as error:
            raise RunError(f"{where}: {'; '.join(_problems(error))}. The file is damaged; write it again.") from None

    @classmethod
    def salvage(cls, values: JsonObject, where: str) -> tuple[Self | None, list[str]]:
        """What can be used of a damaged artefact, and a line for each kind of damage. None: nothing can be used.

        A part of an unexpected shape becomes null or empty; where that is not allowed, what holds it goes too.
        """
        kept: JsonObject | None = {**cls.OLDER, **values}
        told: dict[str, None] = {}
        tries: Counter[Place] = Counter()
        while kept is not None:
            try:
                return cls.model_validate(kept), _few(told)
            except ValidationError as error:
                told |= dict.fromkeys(f"{where}: a part has an unexpected shape ({line})." for line in _problems(error))
                kept = _without_damage(kept, error, tries)
        return None, _few(told)


class Artefact(Record):
    """A JSON file of the run directory."""

    FILE: ClassVar[str]
    VERSION: ClassVar[int]

    version: int
    """Of this file's format; a reader knows its own and all before it."""

    @classmethod
    def parse(cls, values: JsonObject, where: str) -> Self:
        """As of any record. Raises RunError for a version that is newer than this program's too."""
        version = values.get("version", 1)
        if isinstance(version, int) and version > cls.VERSION:
            raise RunError(
                f"{where}: was written by a newer tunesmith (version {version}; this one reads up to {cls.VERSION}). "
                "Update tunesmith."
            )
        return super().parse(values, where)


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
    phases: dict[str, int]
    """The highest of each phase of a step."""


class PredictedTime(Record):
    """Seconds of the whole run. `origin` says how the rates are known."""

    train_seconds: float
    eval_seconds: float
    num_evaluations: int
    save_seconds: float
    num_saves: float
    load_seconds: float
    tokens_per_second: float
    flops_per_token: float
    origin: str
    run_seconds: float
    total_seconds: float


class PredictedDisk(Record):
    checkpoint_bytes: int
    num_checkpoints: int
    model_bytes: int
    cache_bytes: int
    """Prepared data and unpacked models in the user's cache."""
    free_bytes: int | None
    total_bytes: int


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
    max_grad_norm: float
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
    lora: LoraSection | None
    """Of an adapter; None where all weights train."""
    eval_every: Every
    """Optimizer steps (50) or a duration (10m)."""
    save_every: Every
    """Optimizer steps (50) or a duration (10m)."""
    save_keep: int
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
    "rehearse",
    "report_to",
    "device",
    "num_processes",
)
"""Fields that a run takes from its new plan when it goes on."""
STEPS_TO_COME = ("learning_rate", "schedule", "weight_decay", "max_grad_norm", "seed")
"""Fields that it takes from there too where the recipe names them: other values were forced."""


class FileAccount(Record):
    """One input of the data."""

    path: str
    rows: int
    format: str
    """csv, jsonl, parquet, ..."""
    encoding: str | None
    delimiter: str | None
    content: str
    """Digest of what was read."""
    first_row: int
    """Number that its first row is called by: 2 below a header."""
    weight: float
    """Times that each row is seen per epoch."""
    how: str
    """What a row is and how that was recognised, in words."""


class RowNames(Record):
    """The first rows of each kind that were left out."""

    empty: tuple[str, ...]
    bad_rows: tuple[str, ...]


class Dropped(Record):
    too_long: int
    """Documents that data.long left out."""
    by_weight_or_small: int
    """Rows that a weight below 1 or a dry run left out."""


class LongAccount(Record):
    """What became of all documents, and of those that are longer than train.max_length."""

    num_documents: int
    num_long: int
    num_pieces: int
    """Made of long documents by data.long: split."""
    num_truncated: int
    num_dropped: int
    context_tokens: int
    """Fed a second time as context, never a target."""
    lost_targets: int
    """Supervised tokens that are not trained."""
    unread_tokens: int
    """The others that no piece holds."""


class SplitAccount(Record):
    documents: int
    tokens: int
    """Start and end of each document included."""
    targets: int
    """Supervised tokens."""
    fingerprint: str


class Histogram(Record):
    """edges: [n + 1] tokens; counts: [n] rows."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]


Severity = Literal["good", "note", "bad"]
SEVERITIES: Mapping[str, Severity] = MappingProxyType(
    {
        **dict.fromkeys(("good", "ok", "fine"), "good"),
        **dict.fromkeys(("note", "warn", "warns"), "note"),
        **dict.fromkeys(("bad", "failed", "blocks"), "bad"),
    }
)
"""Of a finding's status, in the words of the report, the doctor and the audit."""


class Finding(Record):
    """A numbered verdict: what was found, with its numbers, in a sentence, and what to do."""

    name: str
    status: str
    """Of the audit: blocks, warns or fine; of the doctor: failed, warn or ok; of the report: bad, note or good."""
    found: str
    value: float | None = None
    """The number that decides, and `limit`, the one it is held against, where there are such."""
    limit: float | None = None
    option: str | None = None
    """What to set in the recipe, as `section.key: value`."""
    fix: str | None = None
    """What else to do."""
    is_fatal: bool = False
    """Nothing works until it is done."""
    numbers: JsonObject | None = None
    """What was measured."""
    rows: tuple[str, ...] = ()
    """Names of the first rows concerned."""
    number: int = 0
    """From 1; the same check has the same number everywhere. 0: not numbered."""

    def line(self) -> str:
        """`name: what was found. First: rows. Set option. What else to do`"""
        rows = f" First: {', '.join(self.rows)}." if self.rows else ""
        option = f" Set {self.option}." if self.option else ""
        return f"{self.name}: {self.found}{rows}{option}{f' {self.fix}' if self.fix else ''}"

    @property
    def severity(self) -> Severity:
        return SEVERITIES.get(self.status, "note")

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(self, written: SerializerFunctionWrapHandler) -> JsonObject:
        values: JsonObject = written(self)
        return {key: value for key, value in values.items() if key not in _SAID_IF_SO or value}


_SAID_IF_SO = ("fix", "is_fatal", "numbers")


def numbered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Numbered from 1, in their order."""
    return tuple(finding.model_copy(update={"number": number}) for number, finding in enumerate(findings, start=1))


class RowsRead(Record):
    """What reading found, before anything is split or tokenised."""

    files: tuple[FileAccount, ...]
    rows_read: int
    columns: tuple[str, ...]
    encoding: str | None
    """Of all files that have one, where it is one; so is the delimiter."""
    delimiter: str | None
    """Of csv files."""
    kind: str
    """text, prompt or chat; mixed, where files differ."""
    how: str
    """What a row is and how that was recognised, in words."""
    empty: int
    """Rows without text that were left out."""
    bad_rows: int
    """Rows that could not be read and were left out."""
    examples: RowNames
    """Names of rows that were left out."""
    notes: tuple[str, ...]
    """What a person should know, as sentences."""


class DataAccount(RowsRead, Artefact):
    """data.json: what was read, what became of every row and token, and fingerprints."""

    FILE: ClassVar[str] = "data.json"
    VERSION: ClassVar[int] = 2
    OLDER: ClassVar[Mapping[str, Any]] = MappingProxyType({"version": 1, "findings": ()})

    version: int = 2
    duplicates: int
    """Rows that repeat another word for word."""
    straddling_duplicates: int
    """Held-out rows that are also trained on."""
    dropped: Dropped
    truncated: int
    """Documents that were cut."""
    truncated_tokens: int
    """Supervised tokens that were cut off."""
    long: LongAccount
    splits: dict[str, SplitAccount]
    """By name: train, eval, test."""
    split_by: str
    """What decides a row's split, in words."""
    length_histogram: Histogram
    """Training rows by length in tokens, before anything is cut."""
    chat_template: str | None
    """Whose, where rows are chat."""
    tokenizer: str
    """Fingerprint."""
    max_length: int
    """In tokens, start and end included."""
    small: bool
    """Of a dry run on a few rows."""
    fingerprint: str
    """Of all splits: equal fingerprints train alike."""
    findings: tuple[Finding, ...] = ()
    """Of the audit; empty before it."""


class Event(Record):
    """Something out of the ordinary that a run survived."""

    step: int
    kind: str
    note: str


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
        {"version": 1, "fed_tokens_per_second": None, "test_loss": None}
    )

    version: int = 2
    train_loss: float | None
    eval_loss: float | None
    eval_loss_base: float | None
    eval_perplexity: float | None
    eval_perplexity_base: float | None
    eval_bits_per_byte: float | None
    eval_bits_per_byte_base: float | None
    eval_token_accuracy: float | None
    eval_token_accuracy_base: float | None
    test_loss: float | None
    """Of the test rows, scored once at the end."""
    best_eval_loss: float | None
    best_step: int | None
    train_tokens: int
    """Supervised tokens that were trained on."""
    train_seconds: float
    tokens_per_second: float | None
    """Supervised tokens a second of training."""
    fed_tokens_per_second: float | None
    """All tokens that went through the model, the ones that are only read too."""
    samples_per_second: float | None
    total_seconds: float
    save_seconds: float
    eval_seconds: float
    peak_bytes: int
    steps: int
    stopped: str | None
    events: tuple[Event, ...]

    @property
    def finished(self) -> bool:
        return self.stopped is None


class MetricsLine(Record):
    """A line of metrics.jsonl: an optimizer step (`loss`), or an evaluation (`eval_loss`)."""

    step: int
    epoch: float
    time: float
    """Seconds of the run so far."""
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    """Supervised tokens a second since the line before."""
    fed_tokens_per_second: float | None = None
    peak_bytes: int | None = None
    eval_loss: float | None = None
    eval_perplexity: float | None = None
    eval_bits_per_byte: float | None = None
    eval_token_accuracy: float | None = None

    def to_json(self) -> JsonObject:
        return self.model_dump(mode="json", exclude_none=True)


class Interval(Record):
    """A value and the range that holds it with 95% confidence; null where it cannot be told."""

    value: float | None
    low: float | None
    high: float | None


class Score(Record):
    """One line of a comparison, with all that it takes to show it."""

    title: str
    meaning: str
    """What it measures, in a sentence."""
    better: Literal["lower", "higher", "real", "at most real"]
    """Which way is better; `real`: the nearer to the real texts the better; `at most real`: only more is worse."""
    unit: str
    """nats per token, AUC, share, words, ..."""
    base: Interval | None
    tuned: Interval | None
    real: Interval | None
    """Of real held-out texts, the yardstick."""
    change: Interval | None
    """Tuned minus base."""
    gap: Interval | None
    """Tuned minus real."""


class GroupLoss(Record):
    """The loss on the documents of one slice or kind."""

    name: str
    num_documents: int
    num_tokens: int
    base: Interval
    tuned: Interval
    change: Interval


class GroupLosses(Record):
    column: str | None = None
    rows: tuple[GroupLoss, ...]


class ComparisonCounts(Record):
    held_out_documents: int
    scored_samples: int
    """With a real text beside them."""
    training_rows: int


class NamedRow(Record):
    """A training row; similarity where it was looked for as the nearest one."""

    row: str
    text: str
    similarity: float | None = None


class Wrote(Record):
    """One text of one side, without its prompt. copied: [start, end) characters that stand in a training row."""

    text: str
    ended: bool
    """By itself, before the length limit."""
    copied: tuple[tuple[int, int], ...]
    copied_share: float
    """Of its words."""
    longest_copy: int
    """Words in a row that stand in one training row."""
    copied_from: NamedRow | None
    """The training row of the longest copy."""
    nearest: NamedRow | None
    """The training row most like it."""


class Sample(Record):
    """A prompt and what each side wrote after it; `real` is null for a prompt of the recipe."""

    kind: Literal["prompt", "opening", "unconditional"]
    """A prompt of the recipe, the opening of a held-out row, or nothing."""
    prompt: str
    row: str | None
    """The held-out row that it belongs to."""
    base: Wrote
    tuned: Wrote
    real: Wrote | None


class ComparedBase(Record):
    name: str
    revision: str | None
    licence: str | None


class ComparedTuned(Record):
    name: str
    """Of the run."""
    adapter: bool
    """Whether it is an adapter on the base, or full weights."""


class BlindChoice(Record):
    prompt: str
    choice: Literal["tuned", "base", "tie"]
    tuned: str
    """What the tuned model wrote."""


class BlindResult(Record):
    """Wins of the tuned model where a person chose without knowing; a tie counts half."""

    num_choices: int
    wins: int
    losses: int
    ties: int
    win_rate: float
    low: float
    high: float
    choices: tuple[BlindChoice, ...]


class Comparison(Artefact):
    """compare.json: what base and tuned wrote, and every score."""

    FILE: ClassVar[str] = "compare.json"
    VERSION: ClassVar[int] = 2
    OLDER: ClassVar[Mapping[str, Any]] = MappingProxyType({"version": 1, "blind": None})

    version: int = 2
    settings: CompareSection
    """The recipe's compare section."""
    scores: dict[str, Score]
    telling: tuple[str, ...]
    """Words that most give the tuned model's texts away."""
    slices: GroupLosses
    """The held-out loss by the values of data.slice."""
    general: GroupLosses
    """The loss on general texts by their kind: what was forgotten."""
    counts: ComparisonCounts
    samples: tuple[Sample, ...]
    base: ComparedBase
    tuned: ComparedTuned
    notes: tuple[str, ...]
    """What a reader should know, as sentences."""
    environment: dict[str, str]
    """Versions and machine."""
    seconds: float
    """That it took."""
    blind: BlindResult | None = None


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
    doing: str
    """training, evaluating 20/150, ..."""
    step: int
    num_steps: int
    loss: float | None
    eval_loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    pid: int
    host: str
    boot: str
    """Of the machine that it ran on, so that a restart is seen."""
    updated: float
    """Seconds since 1970."""


class FileEntry(Record):
    bytes: int
    sha256: str


class CheckpointInfo(Record):
    """What a checkpoint knows of its run."""

    data: str
    """Fingerprint of the data, and of the model before training."""
    model: str
    recipe: JsonObject
    plan: Plan
    environment: dict[str, str]
    eval: EvalScores | None


class Manifest(Artefact):
    """checkpoints/step-N/MANIFEST.json: every file with its size and hash; written last."""

    FILE: ClassVar[str] = "MANIFEST.json"
    VERSION: ClassVar[int] = 2

    format: Literal["tunesmith-checkpoint"]
    version: int
    step: int
    info: JsonObject
    """A `CheckpointInfo`."""
    files: dict[str, FileEntry]
    manifest_sha256: str


ARTEFACTS: tuple[type[Artefact], ...] = (Plan, DataAccount, Result, Comparison, Status, Manifest)


Place = tuple[int | str, ...]
"""Where a part lies: keys and list positions, from the outside in."""
_MAX_TOLD = 8


def _problems(error: ValidationError) -> list[str]:
    """`scores.ended.better: input should be ...`, each kind once: the items of a list are not told apart."""
    lines = []
    for problem in error.errors(include_url=False):
        place = ".".join("*" if isinstance(part, int) else part for part in problem["loc"])
        lines.append(f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
    return list(dict.fromkeys(lines))


def _few(lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    more = len(lines) - _MAX_TOLD
    return [*lines[:_MAX_TOLD], f"... and {more} more"] if more > 0 else lines


def _without_damage(values: JsonObject, error: ValidationError, tries: Counter[Place]) -> JsonObject | None:
    """One try at each part that `error` names: null, then gone, then gone with what holds it. None: all is gone."""
    empty: dict[str, object] = {"tuple_type": [], "dict_type": {}}
    changes: dict[Place, Any] = {}
    for problem in error.errors(include_url=False):
        place = _existing(values, problem["loc"])
        if problem["type"] in empty:
            changes[place] = empty[problem["type"]]
            continue
        while place and tries[place] > 1:
            place = place[:-1]
        changes[place] = _GONE if tries[place] or not place or isinstance(place[-1], int) else None
    if () in changes:
        return None
    tries.update(place for place in changes if isinstance(place[-1], str))  # a list's next item takes its position
    for place in sorted(changes, key=lambda place: [(isinstance(part, int), part) for part in place], reverse=True):
        values = _changed(values, place, changes[place])
    return values


_GONE = object()


def _existing(values: Any, location: Place) -> Place:
    """The part of `location` that is a place of `values`, or where a key is missing; the rest names types."""
    for depth, part in enumerate(location):
        if isinstance(values, dict) and isinstance(part, str):
            if part not in values:
                return location[: depth + 1] if depth + 1 == len(location) else location[:depth]
        elif not (isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)):
            return location[:depth]
        values = values[part]
    return location


def _changed(values: Any, place: Place, value: Any) -> Any:
    """A copy of `values` with another value at `place`, or without it."""
    first, *rest = place
    if rest:
        value = _changed(values[first], tuple(rest), value)
    if isinstance(values, dict):
        kept = {key: item for key, item in values.items() if key != first}
        return kept if value is _GONE else {**kept, first: value}
    at = int(first)
    return [*values[:at], *([] if value is _GONE else [value]), *values[at + 1 :]]
