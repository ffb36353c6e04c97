"""What was asked: a YAML file and `--set` overrides become one frozen, fully checked Recipe.

Every check that needs neither hardware nor the model happens here, and all problems are reported at once. Nothing
downstream decides on its own what an unset value means: `auto` values are decided by `tunesmith.plan`, with a reason.
"""

from __future__ import annotations

import copy
import difflib
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tunesmith.errors import RecipeError
from tunesmith.foreign import explain_foreign

MAX_RECIPE_BYTES = 1_000_000
MAX_RECIPE_DEPTH = 20
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(s|m|h)$")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _check_every(value: Any) -> Any:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    if isinstance(value, str) and _DURATION.match(value) and duration_seconds(value) > 0:
        return value
    raise ValueError("expected optimizer steps (50), a duration (90s, 10m, 1h) or auto")


Every = Annotated[int | str, BeforeValidator(_check_every)]
AutoOr = Literal["auto"]


def duration_seconds(text: str) -> float:
    """`90s`, `10m` or `1.5h` in seconds."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 10m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def _one_or_many(value: Any) -> Any:
    """`x` where a list of one is meant."""
    return [value] if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    """`LoRA` where `lora` is meant."""
    return value.lower() if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_one_or_many, json_schema_input_type=tuple[str, ...] | str)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, protected_namespaces=())

    ALONE: ClassVar[str | None] = None
    """The key that a plain text in the place of the section means."""

    @model_validator(mode="before")
    @classmethod
    def _read_alone(cls, value: Any) -> Any:
        return {cls.ALONE: value} if cls.ALONE is not None and isinstance(value, str) else value


class ModelSection(_Section):
    """Which model is tuned."""

    ALONE: ClassVar[str | None] = "name"

    name: str = Field(min_length=1)
    """`smollm2-135m` (embedded), a hub id, a local directory, a GGUF file, or a tunesmith run directory."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The type in which weights are held. auto: the plan decides with train.precision."""
    grow: bool = False
    """true: where the tokenizer has more tokens than the model has embedding rows, rows are added and trained."""


class Source(_Section):
    """One of several sources that are mixed."""

    path: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    """Times that each row of this source is seen per epoch: 2 repeats every row, 0.5 takes a fixed random half."""


class DataSection(_Section):
    """Where the text comes from, what a row is, and how rows are split."""

    ALONE: ClassVar[str | None] = "path"

    path: Annotated[str | tuple[Source, ...], BeforeValidator(lambda value: "-" if value == [None] else value)]
    """A file, folder or glob, here or at s3://, gs://, hf:// or https://; `hub:owner/name[:split]`; `-` for standard
    input; or a list of {path, weight}."""
    text: str | None = None
    """Column that holds the text, or a template such as "{title} ({release_year}): {description}"."""
    prompt: str | None = None
    """Column that is read and not learned; goes with completion."""
    completion: str | None = None
    """Column that is learned after prompt."""
    messages: str | None = None
    """Column that holds chat turns."""
    turns: Literal["all", "last", "each"] = "all"
    """Which assistant turns of a conversation are learned: all of them in one document (a document a turn where the
    template rewrites earlier turns), the last, or each in a document of its own with what comes before."""
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "txt", "md", "html", "pdf", "docx"] = "auto"
    """auto: by the ending of the file's name; of standard input by how it begins."""
    by: Literal["line", "paragraph", "file"] = "line"
    """What one row of a plain text file is."""
    encoding: str = "auto"
    """auto: UTF-8, or what a byte order mark says."""
    fallback_encoding: str | None = None
    """Of the lines that `encoding` cannot read, as in a file that was edited by hand; counted in data.json."""
    delimiter: str = "auto"
    """Of csv and tsv files. auto: the one that gives every row as many fields."""
    eval_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows that is held out: a tenth is enough to see a change, and leaves most to learn from. 0: nothing
    is scored."""
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share that is looked at once, at the end. 0, because no choice is made by the held-out rows within one run."""
    eval_path: str | None = None
    """Held-out rows in a file of their own; eval_fraction is then not used."""
    test_path: str | None = None
    """Test rows in a file of their own."""
    splits: Literal["auto", "ignore"] = "auto"
    """auto: files called train, valid, test and alike, and folders called so, are these splits; ignore: all are one."""
    split_column: str | None = None
    """Column that says train, eval or test (also: validation, valid, dev)."""
    group: str | None = None
    """Column whose equal values never straddle the split."""
    stratify: str | None = None
    """Column whose values keep their share in every split."""
    slice: str | None = None
    """Column by which the held-out loss is also reported."""
    near_duplicates: bool = True
    """Keep near-duplicates (MinHash) on one side of the split."""
    long: Literal["split", "truncate", "drop", "error"] = "split"
    """What becomes of a document that is longer than train.max_length. split: between sentences, nothing is lost."""
    max_rows: int | None = Field(default=None, ge=2)
    """Read so many rows at most."""
    max_bad_rows: float | None = Field(default=None, ge=0, le=1)
    """Share of rows that may be unreadable; unset: 0 for broken encodings and JSON, 0.01 for empty rows."""
    seed: int = Field(default=7, ge=0, lt=2**64)
    """Decides which rows are held out, by their content: the same rows under the same seed, whatever stands beside
    them."""

    @model_validator(mode="after")
    def _check_kind(self) -> DataSection:
        kinds = [name for name in ("text", "messages") if getattr(self, name) is not None]
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion go together: name both columns")
        if self.prompt is not None:
            kinds.append("prompt/completion")
        if len(kinds) > 1:
            raise ValueError(f"a row is one of text, prompt/completion or messages; found {' and '.join(kinds)}")
        if self.eval_fraction + self.test_fraction >= 1:
            raise ValueError("eval_fraction + test_fraction leave no training rows; their sum must be below 1")
        if isinstance(self.path, tuple) and not self.path:
            raise ValueError("path is an empty list; name at least one source")
        return self


class TrainSection(_Section):
    """How the model is trained."""

    method: Annotated[Literal["full", "lora", "dora", "qlora", "auto"], BeforeValidator(_lower)] = "full"
    """Which weights train. full: all, which learns most where it fits. auto: full, else lora or qlora, by memory."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the rows. 1: every further pass fits the text closer and copies it more."""
    max_steps: int | None = Field(default=None, gt=0)
    """Ends the run after this many optimizer steps, before `epochs` if that is later."""
    learning_rate: AutoOr | Annotated[float, Field(gt=0, lt=1)] = "auto"
    """Highest rate of the schedule."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up. linear: to nearly nothing at the end, so that the last steps settle."""
    warmup_fraction: AutoOr | Annotated[float, Field(ge=0, lt=1)] = "auto"
    """Share of the steps over which the rate rises, while AdamW's moments are still guesses. auto: 0.03; where all
    weights train, at least 8 steps, or a third of a run of fewer than 24."""
    weight_decay: float = Field(default=0.0, ge=0)
    """On matrices only. 0: a short run has little to forget by."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """null: gradients are not clipped."""
    optimizer: Literal["auto", "adamw", "adamw8bit", "adafactor", "muon"] = "auto"
    """What moves the weights. auto: adamw, whose two moments are of the weights' type, or adamw8bit on a GPU where
    these do not fit. adafactor holds next to nothing, muon one moment; all round bfloat16 weights at random."""
    tokens_per_step: AutoOr | Annotated[int, Field(gt=0)] = "auto"
    """Tokens per optimizer step over all processes, padding never counted."""
    micro_batch_tokens: AutoOr | Annotated[int, Field(gt=0)] = "auto"
    """Tokens per forward and backward pass on one device."""
    max_length: AutoOr | Annotated[int, Field(ge=2)] = "auto"
    """Longest document in tokens, its start and end tokens included. auto: 1024, or what the model can read if that is
    less."""
    early_stopping: AutoOr | bool | Annotated[int, Field(ge=1, strict=True)] = "auto"
    """Evaluations in a row without a lower held-out loss after which the run ends; the tuned model is then the one with
    the lowest. auto: a quarter of them, at least three. false: all steps are made, and the last weights are the
    model."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the arithmetic; weights and sums stay as model.dtype says. auto: bf16 where the device is faster so."""
    gradient_checkpointing: AutoOr | bool = "auto"
    """Compute activations again in backward: about a third more time for much less memory. auto: only where it is
    needed."""
    compile: AutoOr | bool = "auto"
    """torch.compile. auto: off, since compiling costs a minute or more."""
    cuda_graphs: AutoOr | bool = "auto"
    """Record a step once for each of a few sizes and start it as a whole. auto: on a GPU where steps are small."""
    sharding: Literal["auto", "none", "full"] = "auto"
    """full: weights, gradients and the optimizer's state are split over the processes (FSDP2), so that a model which
    does not fit on one GPU fits on several. It costs an exchange of all weights, twice a pass. auto: where a copy for
    each process does not fit."""
    offload: Literal["none", "layers"] = "none"
    """layers: the frozen weights of lora, dora and qlora stay in RAM; each layer's are copied to the GPU just before it
    runs, forward and backward, so that the GPU holds two layers at a time. For models that do not fit otherwise."""
    loop: Literal["tunesmith", "reference"] = "tunesmith"
    """reference: a plain transformers Trainer (rows padded to max_length, eager attention, whole logits), which
    `tunesmith plan` prices for comparison and `tunesmith train` refuses."""
    rehearse: bool = True
    """Try the largest batch (forward, backward, step, evaluation, save) before step 1, then roll back."""
    report_to: Texts = ()
    """Trackers that accelerate knows: tensorboard, wandb, trackio, mlflow, ... One that fails ends nothing."""
    seed: int = Field(default=7, ge=0, lt=2**32)
    """Of the order of the documents, an adapter's first weights, and dropout."""


class LoraSection(_Section):
    """Low-rank adapters (Hu et al., 2021); used by methods lora, dora and qlora."""

    rank: int = Field(default=16, gt=0)
    """Columns of the two matrices of a layer. More learn more: 16 holds what a few thousand rows teach."""
    alpha: float = Field(default=32, gt=0)
    """What is learned is multiplied by alpha / rank, so that the best learning rate hardly depends on the rank."""
    init: Literal["zero", "pissa"] = "zero"
    """zero: begins as the base model. pissa (Meng et al., 2024): with the largest singular vectors of each weight, and
    these train; wants a lower rate. Saved as an ordinary adapter of the untouched base."""
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead (Kalajdzievski, 2023), which keeps high ranks learning."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """0: one pass over the rows leaves little to learn by heart."""
    target: str | tuple[str, ...] = "all-linear"
    """`all-linear`, or the names of the modules that get an adapter."""


class EvalSection(_Section):
    """When the held-out loss is measured during training."""

    every: Every = "auto"
    """Optimizer steps (50), a duration (10m) or auto: at most eight times and a tenth of the arithmetic, at the end
    alone in short runs."""
    samples: int = Field(default=1, ge=0, le=16)
    """How many of compare.prompts, from the first on, the model in training continues at each evaluation (24 tokens,
    compare's temperature, top_p and seed). What it writes shows sooner than a loss whether a run goes the right way."""


class SaveSection(_Section):
    """When checkpoints are written and how many stay."""

    every: Every = "auto"
    """Optimizer steps (50), a duration (10m) or auto: so that saving takes about 3% of the time."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints that stay, beside the best: 2, so that one survives while the next is written."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The type in which the tuned weights are written. auto: that of the base model's files where the held-out loss
    stays what it was, float32 where not; an adapter is written as it was trained."""
    mirror: str | None = None
    """An address (s3://, gs://, file:///) to which checkpoints are copied in the background, for machines that go away
    with their disks. A run without a checkpoint of its own goes on from the newest one there."""


class CompareSection(_Section):
    """What base and tuned model are asked to write."""

    prompts: Texts = ("One fine morning", "A boy and a girl")
    """Texts that both go on with; the first also opens the report."""
    num_samples: int = Field(default=64, ge=1)
    """Held-out openings and unconditional samples that the scores are computed on."""
    max_new_tokens: int = Field(default=80, gt=0)
    """Longest continuation: a short paragraph."""
    temperature: float = Field(default=0.8, ge=0)
    """Below 1, since small models wander; 0 takes the likeliest token every time."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that come to this probability; 1: from all."""
    seed: int = Field(default=7, ge=0, lt=2**32)
    """Of the draws; base and tuned model have the same."""


class NotifySection(_Section):
    """Who is told when a run ends, by itself, by a stop or by a failure, and when its loss stands out meanwhile."""

    url: str | None = None
    """A webhook that gets JSON (Slack, Discord, Mattermost, ntfy, your own). $NAME in it is read from the environment
    when it is called, so that a secret address stands in no file."""
    command: str | None = None
    """A command that is run, without a shell: JSON on its standard input, one line in $TUNESMITH_MESSAGE."""


class ExportSection(_Section):
    """What is exported when the run has ended; `tunesmith export` does it at any time."""

    ALONE: ClassVar[str | None] = "format"

    format: Literal["safetensors", "gguf", "hub", "onnx"] | None = None
    """null: nothing. A model that cannot leave in this format is refused before training."""
    quant: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0", "q4_k_m"] | None = None
    """Type of the weights; null: f16 in GGUF, in safetensors that of the base model's files."""
    repo: str | None = None
    """OWNER/NAME on the hub, for format hub."""


class Recipe(_Section):
    """Everything that was asked of a run.

    Build it from Python (`Recipe(model=..., data=..., train=...)`) or with `Recipe.load`.
    """

    model: ModelSection
    data: DataSection
    train: TrainSection = TrainSection()
    lora: LoraSection = LoraSection()
    eval: EvalSection = EvalSection()
    save: SaveSection = SaveSection()
    compare: CompareSection = CompareSection()
    export: ExportSection = ExportSection()
    notify: NotifySection = NotifySection()

    @model_validator(mode="after")
    def _check_offload(self) -> Recipe:
        train = self.train
        if train.offload == "none":
            return self
        for wrong, why in (
            (
                train.method == "full",
                "every weight trains, so that none can stay in RAM. Use train.method: lora or qlora",
            ),
            (train.sharding == "full", "goes with one process. Leave out train.sharding: full"),
            (train.gradient_checkpointing is False, "backward computes layers again. Leave out gradient_checkpointing"),
            (train.cuda_graphs is True, "layers come and go, which no recorded step does. Leave out train.cuda_graphs"),
            (train.loop == "reference", "is of train.loop: tunesmith"),
        ):
            if wrong:
                raise ValueError(f"train.offload: layers: {why}")
        return self

    @model_validator(mode="after")
    def _check_grown(self) -> Recipe:
        if self.model.grow and self.train.sharding == "full" and self.train.method != "full":
            raise ValueError(
                "model.grow: an adapter's rows for added tokens are not sharded. Leave out train.sharding: full, or "
                "use train.method: full"
            )
        return self

    def __init__(self, *, _where: str = "recipe", **sections: Any) -> None:
        """Raises RecipeError that lists every problem; `_where` opens each of its lines."""
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise RecipeError(_explain(error, _where)) from None

    @classmethod
    def load(cls, path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
        """Read a YAML recipe and apply `section.key=value` overrides.

        Raises RecipeError that lists every problem, each with its key.
        """
        values = _read_yaml(Path(path))
        for override in overrides:
            _apply_override(values, override)
        return cls.parse(values, str(path))

    @classmethod
    def parse(
        cls, values: dict[str, Any], where: str = "recipe", overrides: list[str] | tuple[str, ...] = ()
    ) -> Recipe:
        """Check plain values, as YAML holds them, with `section.key=value` overrides.

        `where` opens each line of the RecipeError.
        """
        if overrides:
            values = copy.deepcopy(values)
        for override in overrides:
            _apply_override(values, override)
        return cls(_where=where, **{str(key): value for key, value in values.items()})

    def with_values(self, **changes: Any) -> Recipe:
        """A copy with dotted values changed: `recipe.with_values(**{"train.epochs": 2})`."""
        values = self.model_dump(mode="json")
        for key, value in changes.items():
            section, name = key.split(".", 1)
            values[section][name] = value
        return Recipe.parse(values)

    def to_yaml(self) -> str:
        """The recipe with every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


_DATA_ENDINGS = re.compile(
    r"\.(csv|tsv|tab|json|jsonl|ndjson|parquet|txt|text|md|markdown|html?|pdf|docx|zip)(\.(gz|zst|bz2|xz|zip))?$"
)


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise RecipeError(
            f"{path}: is a directory. Expected a YAML recipe. If it holds data, this writes a recipe for it: "
            f"tunesmith init {shlex.quote(str(path))}"
        )
    if path.exists() and _DATA_ENDINGS.search(path.name.lower()):
        raise RecipeError(
            f"{path}: this is data, not a recipe. This writes a recipe for it: tunesmith init {shlex.quote(str(path))}"
        )
    if not path.exists():
        near = sorted(str(p) for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        close = difflib.get_close_matches(str(path), near, n=1, cutoff=0.4)
        raise RecipeError(f"{path}: no such file." + (f" Did you mean {close[0]}?" if close else ""))
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path}: {path.stat().st_size} bytes. A recipe has at most {MAX_RECIPE_BYTES}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8. Save the recipe as UTF-8.") from None
    try:
        _check_tokens(path, text)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{where}: not valid YAML: {problem}.") from None
    except ValueError as error:  # a number of thousands of digits
        raise RecipeError(f"{path}: {str(error).split(';')[0]}. No value of a recipe is so long.") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise RecipeError(
            f"{path}: found {found}. Expected sections: {', '.join(Recipe.model_fields)}; model and data are required."
        )
    return values


def _check_tokens(path: Path, text: str) -> None:
    """Refuse what makes a small file cost much: aliases, and nesting, whose time grows with the square of its depth."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        where = f"{path}:{token.start_mark.line + 1}"
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_RECIPE_DEPTH:
            raise RecipeError(f"{where}: nested too deeply for a recipe.")
        if isinstance(token, yaml.AliasToken):
            raise RecipeError(f"{where}: YAML aliases are not supported. Write the value out.")


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and section and dot and name):
        known = explain_foreign(section) if equals and not dot else None
        raise RecipeError(f"--set {override}: {known or 'expected section.key=value, such as train.epochs=2.'}")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        value = text
    target = values.setdefault(section, {})
    if not isinstance(target, dict):
        raise RecipeError(f"--set {override}: {section} is not a section in the recipe.")
    *path, last = name.split(".")
    for part in path:
        target = target.setdefault(part, {})
    target[last] = value


def _section_fields(location: tuple[int | str, ...]) -> list[str]:
    """Names that are allowed beside the key at `location`."""
    if len(location) == 1:
        return list(Recipe.model_fields)
    field = Recipe.model_fields.get(str(location[0]))
    section = field.annotation if field is not None else None
    if isinstance(section, type) and issubclass(section, BaseModel):
        return list(section.model_fields) if len(location) == 2 else list(Source.model_fields)
    return []


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    allowed = _section_fields(location)
    key = str(location[-1])
    close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    prefix = ".".join(str(part) for part in location[:-1])
    if close:
        return f" Did you mean {prefix + '.' if prefix else ''}{close[0]}?"
    homes = [f"{s}.{key}" for s in Recipe.model_fields if key in _section_fields((s, key))]
    return f" Did you mean {homes[0]}?" if homes else f" Known keys: {', '.join(allowed)}."


def _explain(error: ValidationError, where: str) -> str:
    lines: dict[str, None] = {}
    for problem in error.errors(include_url=False):
        location = tuple(part for part in problem["loc"] if not _is_union_tag(part))
        key = ".".join(str(part) for part in location)
        if problem["type"] == "extra_forbidden":
            known = explain_foreign(str(location[-1]))
            lines[f"{where}: {key}: {known or 'unknown key.' + _did_you_mean(location)}"] = None
        elif problem["type"] == "missing":
            lines[f"{where}: {key}: missing. It is required."] = None
        else:
            message = problem["msg"].removeprefix("Value error, ")
            found = problem.get("input")
            shown = f" (found {found!r})" if isinstance(found, str | int | float | bool | None) else ""
            start = f"{where}: {key}: "
            earlier = next((line for line in lines if line.startswith(start)), None)
            if earlier is None:
                lines[f"{start}{message}{shown}"] = None
            else:  # another arm of a union: one line a key
                del lines[earlier]
                both = earlier.removesuffix(shown)
                lines[f"{both} or {message.removeprefix('Input should be ')}{shown}"] = None
    return "\n".join(lines)


def _is_union_tag(part: int | str) -> bool:
    """pydantic names the arm of a union inside a location (`int`, `literal['auto']`); users do not."""
    return isinstance(part, str) and (part in _UNION_TAGS or "[" in part)


_UNION_TAGS = {"str", "int", "float", "bool", "constrained-int", "list", "tuple", *get_args(AutoOr)}
