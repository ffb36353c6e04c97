"""The Python API: what `import tunesmith` offers, and what the commands call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.recipe import CompareSection, Recipe
from tunesmith.run.directory import RESULT, RunDir
from tunesmith.run.observer import Callbacks

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel

    from tunesmith.audit.findings import AuditReport
    from tunesmith.doctor import Examination
    from tunesmith.export.stage import Exported
    from tunesmith.generate.batch import Line, TextStream, Writing
    from tunesmith.generate.conversation import Conversation
    from tunesmith.generate.text import Generation
    from tunesmith.generate.voices import Speakers
    from tunesmith.models.tokenizer import TextTokenizer
    from tunesmith.plan import Measured, PlanReport
    from tunesmith.run.artefacts import EvalScores, ExportFormat, MetricsLine, Quant
    from tunesmith.show.doing import Doing

    LoadedModel = tuple[PreTrainedModel, TextTokenizer]

EVAL_TOKENS = 2048


@dataclass(frozen=True)
class Run:
    """A run on disk, for use from Python."""

    path: Path
    _loaded: dict[bool, LoadedModel] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The models that this run wrote with, by whether they are the base; they stay in memory for the next text."""

    @property
    def dir(self) -> RunDir:
        """Its directory: names, readers and writers of every artefact. Raises RunError when it is gone."""
        return RunDir.open(self.path)

    @property
    def recipe(self) -> Recipe:
        """recipe.yaml: what was asked, every key with its value."""
        return self.dir.recipe()

    @property
    def result(self) -> dict[str, Any]:
        """result.json: eval_loss, eval_loss_base, train_seconds, peak_bytes, ..."""
        return self.dir.read_json(RESULT)

    def generate(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        base: bool = False,
        raw: bool = False,
    ) -> str:
        """Text that the tuned model writes after `prompt`, decoded as the recipe's compare section says.

        base: by the model that it was tuned from. A run that was tuned on conversations is asked `prompt` as a user's
        turn, unless it is `raw` text. The model stays loaded; `unload` lets go of it.
        """
        written = generate(
            str(self.path),
            [prompt],
            max_new_tokens=max_new_tokens or None,
            seed=seed,
            raw=raw,
            loaded=self.load(base=base),
        )
        return written[0].text

    def load(self, *, base: bool = False) -> LoadedModel:
        """The tuned model (or its base) with its tokenizer, loaded once and kept."""
        if base not in self._loaded:
            from tunesmith.models.load import load_for_generation

            asked = self.recipe.model
            name, revision = (asked.name, asked.revision) if base else (str(self.path), None)
            self._loaded[base] = load_for_generation(name, revision=revision)
        return self._loaded[base]

    def unload(self) -> None:
        """Let go of the models that `load` and `generate` keep."""
        self._loaded.clear()

    def chat(
        self, system: str | None = None, *, max_new_tokens: int = 512, base: bool = False
    ) -> AbstractContextManager[Conversation]:
        """A talk with the tuned model, or its base, decoded as the recipe's compare section says.

        `with run.chat() as talk: print(talk.say("Hello"))`; in a terminal: `tunesmith chat RUN`.
        """
        writer = Writer(str(self.path), base=base).decoded(max_new_tokens, None, None, None)
        return writer.conversation(system)

    def serve(self, *, host: str = "127.0.0.1", port: int = 8000, api_key_file: str | Path | None = None) -> None:
        """Serve tuned and base until Ctrl-C: OpenAI's API, and a page at / to try them. Prints the address."""
        serve(str(self.path), host=host, port=port, api_key_file=api_key_file)

    def _repr_html_(self) -> str:
        """What a notebook shows: the report in short."""
        from tunesmith.report.short import short_report

        return short_report(self.dir)

    def compare(self, prompts: list[str] | None = None, *, console: Console | None = None) -> dict[str, Any]:
        """Base against tuned: writes and returns compare.json. What is being done is said on `console`."""
        with _doing(console, wakes=True) as doing:
            from tunesmith.compare import compare

            return compare(self.dir, prompts, say=doing).to_json()

    def report(self) -> Path:
        """Write report.html and return its path; a notebook shows the page itself."""
        from tunesmith.report import write_report
        from tunesmith.report.short import ReportPath

        path: Path = ReportPath(write_report(self.dir))
        return path

    def export(
        self,
        format: ExportFormat,
        *,
        quant: Quant | None = None,
        out: str | Path | None = None,
        repo: str | None = None,
        force: bool = False,
        public: bool = False,
        adapter: bool = False,
        fold: bool = False,
        console: Console | None = None,
    ) -> Exported:
        """Write the tuned model as safetensors, gguf, onnx or to the hub, load it again and compare.

        quant: type of the weights. out: a folder, RUN/export/NAME unless given. repo: OWNER/NAME on the hub, private
        unless `public`. adapter: the adapter alone as GGUF. fold: GPT-Neo and GPT-J as GPT-2 and Phi. force: replace
        an export, write over a repository, or take the checkpoint of a run that did not end.

        Raises TunesmithError with what differed, or what the user can do.
        """
        from tunesmith.export.job import Asked
        from tunesmith.export.stage import export

        asked = Asked(
            format,
            quant,
            None if out is None else Path(out),
            repo,
            force=force,
            public=public,
            adapter=adapter,
            fold=fold,
        )
        with _doing(console) as doing:
            return export(self.dir, asked, doing)


def train(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    data: Any = None,
    overrides: list[str] | tuple[str, ...] = (),
    small: bool = False,
    resume: bool = False,
    fresh: bool = False,
    force: bool = False,
    on_step: Callable[[MetricsLine], object] | None = None,
    on_evaluate: Callable[[int, EvalScores], object] | None = None,
    stop: Callable[[], bool] | None = None,
    console: Console | None = None,
) -> Run:
    """Run a recipe from data to tuned model; an unfinished run in `out` goes on where it stopped.

    recipe: its file, a Recipe, or its sections as a dict. data: instead of the recipe's data.path a pandas or polars
    frame, a datasets.Dataset, a list of texts or of dicts, a dict of splits of such, or a path.
    on_step, on_evaluate, stop: functions that are called between two steps (`run.observer.Callbacks`).
    out: the run directory; default `runs/<name of the recipe file>`, with -small after it when `small`.
    small: a dry run on about 100 training and 20 held-out rows. resume: the run must exist already.
    fresh: delete the run in `out` and begin again. force: go on although recipe or data changed.

    Raises TunesmithError for what the user can fix, Stopped when a signal ended the run early.
    """
    from tunesmith import pipeline
    from tunesmith.machine.heap import use_huge_pages
    from tunesmith.machine.threads import choose_waiting

    use_huge_pages()
    choose_waiting()
    callbacks = Callbacks(on_step, on_evaluate, stop)
    given, left = _with_data(recipe, data, overrides)
    asked, path = pipeline.recipe_and_path(given, out, left, small=small)
    run_dir = pipeline.train(
        asked, path, small=small, resume=resume, fresh=fresh, force=force, console=console, callbacks=callbacks
    )
    return Run(run_dir.path)


def _with_data(
    recipe: Recipe | Mapping[str, Any] | str | Path, data: Any, overrides: Sequence[str]
) -> tuple[Recipe | str | Path, list[str]]:
    """The recipe, with `data` as its data.path, and the overrides that are left to apply."""
    left = list(overrides)
    if data is not None:
        from tunesmith.data.read.given import keep

        left.append(f"data.path={json.dumps(str(data) if isinstance(data, str | Path) else keep(data))}")
    if isinstance(recipe, str | Path):
        return recipe, left
    if isinstance(recipe, Recipe):
        recipe = recipe.model_dump(mode="json") if left else recipe
    return (recipe if isinstance(recipe, Recipe) else Recipe.parse(dict(recipe), overrides=left)), []


def audit(recipe: Recipe | Mapping[str, Any] | str | Path, *, data: Any = None, small: bool = False) -> AuditReport:
    """What the data of a recipe really is, as `tunesmith data` shows it; `recipe` and `data` as `train` has them.

    Raises DataError or ModelError for what the user can fix.
    """
    from tunesmith.audit.stage import audit_recipe

    return audit_recipe(_recipe_of(recipe, data), small=small)


def doctor(out: str | Path = "runs", *, bench: bool = False) -> Examination:
    """Whether this machine is fit to train runs that are written under `out`. bench: also measure its arithmetic."""
    from tunesmith.doctor import examine

    return examine(out, bench=bench)


def _recipe_of(recipe: Recipe | Mapping[str, Any] | str | Path, data: Any = None) -> Recipe:
    asked, left = _with_data(recipe, data, ())
    return asked if isinstance(asked, Recipe) else Recipe.load(asked, left)


def plan(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    data: Any = None,
    gpu: str | None = None,
    all_gpus: bool = False,
    price: float | Sequence[str | float] | None = None,
    procs: int | None = None,
    nodes: int | None = None,
    interconnect: Sequence[str] = (),
    calibrate: bool = False,
    console: Console | None = None,
) -> PlanReport:
    """Forecast memory, time, disk and cost; `calibrate` first times a few real steps here, which needs the weights.

    price: per hour, of this machine or of `gpu`, or `["l4=0.8", ...]` for GPUs of the table; typical prices otherwise.
    procs: GPUs that train together, in each of `nodes` machines; interconnect: what joins them, if not the usual.
    What is being done is said on `console`. Raises PlanError, ModelError or DataError for what the user can fix.
    """
    from tunesmith.data.rows.columns import check_columns

    if calibrate and (gpu is not None or all_gpus):
        from tunesmith.errors import PlanError

        raise PlanError(
            f"--calibrate with {'--all-gpus' if all_gpus else f'--gpu {gpu}'}: steps can be timed on this machine "
            "alone. Leave out one of the two."
        )
    if calibrate and procs is not None:
        from tunesmith.errors import PlanError

        raise PlanError(f"--calibrate with --procs {procs}: steps are timed in one process. Leave out one of the two.")
    recipe = _recipe_of(recipe, data)
    check_columns(recipe.data)
    with _doing(console) as doing:
        from tunesmith.plan import Counts
        from tunesmith.plan import plan as forecast

        counts = Counts.of(procs, nodes, interconnect)
        doing("planning")
        report = forecast(
            recipe, gpu, all_gpus, price, counts=counts, progress=doing
        )  # first: what the model leaves behind is not to count as taken
    return report.refitted(_measure(recipe, console)) if calibrate else report


def _measure(recipe: Recipe, console: Console | None) -> list[Measured]:
    import tempfile

    from tunesmith.pipeline import prepare_inputs

    with _doing(console, wakes=True) as doing:
        from tunesmith.plan import detect_machine, make_plan
        from tunesmith.run.observer import Silent
        from tunesmith.training import Job, calibrate

        made = prepare_inputs(recipe, doing, small=False)
        decided = make_plan(recipe, made.data, detect_machine())
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        job = Job(recipe, decided, made.source, made.tokenizer, made.data, RunDir(Path(folder)), {}, None)
        with _doing(console) as doing:
            doing("timing a few steps")
            return calibrate(job, Silent())


def evaluate_file(
    name: str, path: str, *, text: str | None = None, max_length: int = 1024, console: Console | None = None
) -> dict[str, float]:
    """Score RUN_OR_MODEL on every row of a file: loss, perplexity, bits per byte, token accuracy, and what was counted.

    A chat template that writes today's date writes for a run the day on which it began, as in training.
    Raises DataError or ModelError for what the user can fix.
    """
    from tunesmith.data.rows.columns import check_columns
    from tunesmith.recipe import DataSection

    section = DataSection(
        path=path, text=text, eval_fraction=0, near_duplicates=False, long="truncate", splits="ignore"
    )
    check_columns(section)  # before what is slow
    with _doing(console, wakes=True) as doing:
        from tunesmith import fast
        from tunesmith.data import prepare
        from tunesmith.data.tokens.asked import day_of
        from tunesmith.evaluate import evaluate
        from tunesmith.models.load import load_for_generation

        doing("loading the model")
        model, tokenizer = load_for_generation(name)
        doing("reading the data")
        documents = prepare(section, tokenizer, max_length, progress=doing, date=day_of(name)).train
        fast.apply(model)
        scores = evaluate(model, documents, max_tokens=EVAL_TOKENS, progress=partial(doing, "scoring documents"))
    return {
        "loss": scores.loss,
        "perplexity": scores.perplexity,
        "bits_per_byte": scores.bits_per_byte,
        "token_accuracy": scores.token_accuracy,
        "num_tokens": scores.num_tokens,
        "num_documents": scores.num_documents,
    }


def generate(
    name: str,
    prompts: list[str],
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    raw: bool = False,
    loaded: LoadedModel | None = None,
    console: Console | None = None,
) -> list[Generation]:
    """Continue each prompt with RUN_OR_MODEL; a run that was tuned on conversations is asked it as a user's turn.

    loaded: what `Run.load` gives, so that it is not loaded again. raw: prompts are text to continue for such a run too.
    The prompt "" is written from nothing.
    How it is decoded, where not given: for a run as its compare section says, otherwise as that section's defaults.
    """
    asked = _compare_section(name)
    with _doing(console, wakes=True) as doing:
        from tunesmith.data.tokens.asked import asked_prompts
        from tunesmith.generate.text import generate as write
        from tunesmith.models.load import load_for_generation

        doing("loading the model")
        model, tokenizer = loaded or load_for_generation(name)
        doing(f"writing {len(prompts)} texts" if len(prompts) > 1 else "writing")
        fed = prompts if raw else asked_prompts(name, tokenizer, prompts)
        written = write(
            model,
            tokenizer,
            fed,
            max_new_tokens=asked.max_new_tokens if max_new_tokens is None else max_new_tokens,
            temperature=asked.temperature if temperature is None else temperature,
            top_p=asked.top_p if top_p is None else top_p,
            seed=asked.seed if seed is None else seed,
        )
    return [
        text if isinstance(ids, str) else replace(text, prompt=prompt, is_answer=True)
        for prompt, ids, text in zip(prompts, fed, written, strict=True)
    ]


@dataclass(frozen=True)
class Writer:
    """RUN_OR_MODEL as it writes on request: which model, decoded how. The model is loaded when it is first needed."""

    name: str
    base: bool = False
    """The model that it was tuned from writes."""
    raw: bool = False
    """Prompts are text to continue, also for a run that was tuned on conversations."""
    how: CompareSection | None = None
    """max_new_tokens, temperature, top_p and seed; None: as the run is compared."""

    def decoded(
        self, max_new_tokens: int | None, temperature: float | None, top_p: float | None, seed: int | None
    ) -> Writer:
        """This writer with what is given instead of what the run's compare section says."""
        given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        values = {name: value for name, value in given.items() if value is not None}
        return replace(self, how=_compare_section(self.name).model_copy(update=values))

    def lines(self, prompts: Sequence[str], *, console: Console | None = None) -> list[Line]:
        """The text of each prompt, with how it was written."""
        with self._speakers(console) as (speakers, how):
            from tunesmith.generate.batch import Line

            texts = speakers.engine.write(how.requests(speakers, prompts))
        return [Line.of(prompt, text, self.name, how) for prompt, text in zip(prompts, texts, strict=True)]

    def write_lines(self, prompts: Sequence[str], out: Path | None, *, console: Console | None = None) -> int:
        """A JSON line for each prompt into `out`; what stands there already is gone on with.

        Raises DataError for an `out` that holds something else.
        """
        from rich.console import Console

        from tunesmith.show.count import counting

        with (
            self._speakers(console) as (speakers, how),
            counting(console or Console(quiet=True), "writing texts") as progress,
        ):
            from tunesmith.generate.batch import write_lines

            return write_lines(speakers, self.name, prompts, how, out, progress)

    def streams(self, prompts: Sequence[str], *, console: Console | None = None) -> Iterator[TextStream]:
        """Each prompt and the pieces of its text as they are written."""
        with self._speakers(console) as (speakers, how):
            from tunesmith.generate.batch import TextStream

            going = speakers.engine.stream_each(how.requests(speakers, prompts))
            for prompt, (ticket, pieces) in zip(prompts, going, strict=True):
                yield TextStream(prompt, not isinstance(ticket.request.prompt, str), pieces)

    @contextmanager
    def conversation(self, system: str | None = None, *, console: Console | None = None) -> Iterator[Conversation]:
        """A talk with the model, and with its base where there is one."""
        with self._speakers(console, both=True) as (speakers, how):
            from tunesmith.generate.conversation import Conversation

            yield Conversation(speakers, how.decoding, how.seed, how.voice, system)

    @contextmanager
    def _speakers(self, console: Console | None, *, both: bool = False) -> Iterator[tuple[Speakers, Writing]]:
        asked = self.how or _compare_section(self.name)
        with _doing(console, wakes=True) as doing:
            from tunesmith.generate.batch import Writing
            from tunesmith.generate.text import Decoding
            from tunesmith.generate.voices import BASE, TUNED, open_speakers

            decoding = Decoding(asked.max_new_tokens, asked.temperature, asked.top_p)
            speakers = open_speakers(self.name, base=both or self.base, tuned=both or not self.base, say=doing)
        how = Writing(BASE if self.base else TUNED, decoding, asked.seed, self.raw)
        with speakers.engine:
            yield speakers, how


def serve(
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: str | Path | None = None,
    console: Console | None = None,
    ready: Callable[[str], object] = print,
) -> None:
    """Serve RUN_OR_MODEL over HTTP until a signal ends it: OpenAI's API, and a page at / to try it.

    port: 0 takes a free one. api_key_file: of the key that requests need, else $TUNESMITH_API_KEY; without a key it
    serves this machine alone. ready is told the address when it answers. Raises ServeError for an address that cannot
    be had, ModelError or RunError for the model.
    """
    from tunesmith.web import require_server

    require_server("serve", "fastapi", "prometheus_client")
    with _doing(console) as doing:
        from tunesmith.serve.start import Address, open_server

        address = Address(host, port, Path(api_key_file) if api_key_file is not None else None)
        opened = open_server(name, address, say=doing)
    opened.run(ready)


def _compare_section(name: str) -> CompareSection:
    path = Path(name).expanduser()
    return RunDir.open(path).recipe().compare if RunDir.is_run(path) else CompareSection()


@contextmanager
def _doing(console: Console | None, *, wakes: bool = False) -> Iterator[Doing]:
    """Says that the libraries load, and then what it is called with. wakes: a GPU is made ready meanwhile."""
    from rich.console import Console

    from tunesmith.machine import driver
    from tunesmith.machine.threads import choose_waiting
    from tunesmith.show.doing import LOADING, Doing

    if wakes:
        driver.wake()
    choose_waiting()
    with Doing(console or Console(quiet=True)) as doing:
        doing(LOADING)
        yield doing
