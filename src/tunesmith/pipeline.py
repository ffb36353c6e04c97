"""The story in one function, and the Python API.

recipe -> data -> plan -> train -> evaluate -> compare -> report
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import RunError
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import CheckpointInfo
from tunesmith.run.directory import COMPARE, RECIPE, REPORT, RESULT, RunDir, check_run_path

if TYPE_CHECKING:
    from rich.console import Console

    from tunesmith.data import Data
    from tunesmith.generate.text import Generation
    from tunesmith.models.find import ModelSource
    from tunesmith.models.tokenizer import TextTokenizer
    from tunesmith.plan import Measured, PlanReport
    from tunesmith.run.artefacts import Finding, Plan, Result
    from tunesmith.training import Job
    from tunesmith.training.checkpoint import Checkpoint

Say = Callable[[str], None]
EVAL_TOKENS = 2048
SMALL_SUFFIX = "-small"


@dataclass(frozen=True)
class Run:
    """A run on disk, for use from Python."""

    path: Path

    @property
    def dir(self) -> RunDir:
        return RunDir.open(self.path)

    @property
    def recipe(self) -> Recipe:
        return self.dir.recipe()

    @property
    def result(self) -> dict[str, Any]:
        """result.json: eval_loss, eval_loss_base, train_seconds, peak_bytes, ..."""
        return self.dir.read_json(RESULT)

    def generate(self, prompt: str = "", *, max_new_tokens: int | None = None, seed: int | None = None) -> str:
        """Text that the tuned model writes after `prompt`, decoded as the recipe's compare section says."""
        asked = self.recipe.compare
        wanted = max_new_tokens or asked.max_new_tokens
        return generate(
            str(self.path),
            [prompt],
            recipe=self.recipe,
            max_new_tokens=wanted,
            seed=asked.seed if seed is None else seed,
        )[0].text

    def compare(self, prompts: list[str] | None = None) -> dict[str, Any]:
        """Base against tuned: writes and returns compare.json."""
        from tunesmith.compare import compare

        return compare(self.dir, prompts).to_json()

    def report(self) -> Path:
        """Write report.html and return its path."""
        from tunesmith.report import write_report

        return write_report(self.dir)


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    overrides: list[str] | tuple[str, ...] = (),
    small: bool = False,
    resume: bool = False,
    fresh: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> Run:
    """Run a recipe from data to tuned model; an unfinished run in `out` goes on where it stopped.

    out: the run directory; default runs/<name of the recipe file>, with -small after it when `small`.
    small: a dry run on about 100 training and 20 held-out rows. resume: the run must exist already.
    fresh: delete the run in `out` and begin again. force: go on although recipe or data changed.

    Raises TunesmithError for what the user can fix, Stopped when a signal ended the run early.
    """
    from rich.console import Console

    from tunesmith import training
    from tunesmith.machine.heap import use_huge_pages
    from tunesmith.run.lock import RunLock
    from tunesmith.run.signals import StopRequest
    from tunesmith.show.progress import Progress

    use_huge_pages()
    recipe, path = _recipe_and_path(recipe, out, overrides, small)
    _check_out(path, recipe, resume=resume, fresh=fresh, force=force)
    if recipe.train.report_to:
        from tunesmith.training.distributed import check_trackers

        check_trackers(recipe.train.report_to)
    first = is_first_process()
    console = (console or Console(stderr=True)) if first else Console(quiet=True)
    say = _speaker(console)
    with StopRequest("the same command") as stop:
        with stop.at_once():
            source, tokenizer, data = _prepare(recipe, console, small=small)
            findings = _audit(recipe, tokenizer, data, say)
        run_dir = RunDir.create(path)
        run_dir.writes = first
        with RunLock(run_dir, say) if first else nullcontext():
            if fresh:
                run_dir.clear()
            run_dir.remove_leftovers()
            stop.resume = _resume_command(path, small=small, force=force)
            job = _job(recipe, source, tokenizer, data, run_dir, say, force=force)
            run_dir.write_recipe(recipe)
            run_dir.write(data.account.model_copy(update={"findings": findings}))
            if _is_finished(job, say):
                return Run(path)
            with Progress(console) as progress:
                result = training.train(job, stop, progress)
            _conclude(run_dir, result, say)
    return Run(path)


def is_first_process() -> bool:
    """Whether this process writes and speaks for all that train together, as torchrun numbers them."""
    return os.environ.get("RANK", "0") == "0"


def _audit(recipe: Recipe, tokenizer: TextTokenizer, data: Data, say: Say) -> tuple[Finding, ...]:
    """Say what the audit warns of and refuse what it blocks. Returns the findings for data.json."""
    from tunesmith.audit.findings import describe
    from tunesmith.audit.stage import audit

    report = audit(data, tokenizer, recipe.data, recipe.train.max_length)
    report.check()
    for finding in report.warnings:
        say(f"data: {describe(finding)}")
    return report.findings


def _is_finished(job: Job, say: Say) -> bool:
    """Whether nothing is left to train; else the run directory is made ready, and it is said where the run goes on."""
    from tunesmith.training.resume import finished_result

    run_dir, checkpoint, num_steps = job.run_dir, job.checkpoint, job.plan.num_steps
    result = finished_result(run_dir, checkpoint.step, num_steps) if checkpoint else None
    if result is not None:
        say(f"{run_dir.path}: already finished at step {num_steps}. --fresh trains it again.")
        if not run_dir.has(REPORT):
            run_dir.write(job.plan)
            _conclude(run_dir, result, say)
        return True
    run_dir.write(job.plan)
    if checkpoint is not None:
        say(f"resuming {run_dir.path} from step {checkpoint.step} of {num_steps}; --fresh would start over")
    run_dir.remove(COMPARE, REPORT)  # of the model before, where a finished run is made longer
    return False


def _conclude(run_dir: RunDir, result: Result, say: Say) -> None:
    """What was planned and what it took, and the report."""
    from tunesmith.plan import record_measured
    from tunesmith.report import write_report

    if run_dir.writes:
        say(record_measured(run_dir, result))
        write_report(run_dir)


def _job(
    recipe: Recipe,
    source: ModelSource,
    tokenizer: TextTokenizer,
    data: Data,
    run_dir: RunDir,
    say: Say,
    *,
    force: bool,
) -> Job:
    from tunesmith.training import Job
    from tunesmith.training.resume import find_checkpoint, model_fingerprint

    fingerprints = {"data": data.fingerprint, "model": model_fingerprint(source)}
    checkpoint = find_checkpoint(run_dir, recipe, fingerprints, say, force=force)
    plan = _plan(recipe, data, checkpoint, run_dir.path)
    return Job(recipe, plan, source, tokenizer, data, run_dir, fingerprints, checkpoint)


def plan(
    recipe: Recipe,
    *,
    gpu: str | None = None,
    all_gpus: bool = False,
    price: float | None = None,
    calibrate: bool = False,
    console: Console | None = None,
) -> PlanReport:
    """Forecast memory, time, disk and cost; `calibrate` first times a few real steps here, which needs the weights.

    Raises PlanError, ModelError or DataError for what the user can fix.
    """
    from tunesmith.plan import plan as forecast

    report = forecast(recipe, gpu, all_gpus, price)  # first: what the model leaves behind is not to count as taken
    return report.refitted(_measure(recipe, console)) if calibrate else report


def _measure(recipe: Recipe, console: Console | None) -> list[Measured]:
    import tempfile

    from rich.console import Console

    from tunesmith.plan import detect_machine, make_plan
    from tunesmith.run.observer import Silent
    from tunesmith.training import Job, calibrate

    source, tokenizer, data = _prepare(recipe, console or Console(quiet=True), small=False)
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        run_dir = RunDir(Path(folder))
        decided = make_plan(recipe, data, detect_machine())
        job = Job(recipe, decided, source, tokenizer, data, run_dir, {}, None)
        return calibrate(job, Silent())


def evaluate_file(name: str, path: str, *, text: str | None = None, max_length: int = 1024) -> dict[str, float]:
    """Score RUN_OR_MODEL on every row of a file: loss, perplexity, bits per byte, token accuracy, and what was counted.

    Raises DataError or ModelError for what the user can fix.
    """
    from tunesmith import fast
    from tunesmith.data import prepare
    from tunesmith.evaluate import evaluate
    from tunesmith.models.load import load_for_generation
    from tunesmith.recipe import DataSection

    model, tokenizer = load_for_generation(name)
    section = DataSection(path=path, text=text, eval_fraction=0, near_duplicates=False, long="truncate")
    documents = prepare(section, tokenizer, max_length).train
    fast.apply(model)
    scores = evaluate(model, documents, max_tokens=EVAL_TOKENS)
    return {
        "loss": scores.loss,
        "perplexity": scores.perplexity,
        "bits_per_byte": scores.bits_per_byte,
        "token_accuracy": scores.token_accuracy,
        "num_tokens": scores.num_tokens,
        "num_documents": scores.num_documents,
    }


def generate(name: str, prompts: list[str], *, recipe: Recipe | None = None, **options: Any) -> list[Generation]:
    """Continue each prompt with RUN_OR_MODEL; decoding defaults to the recipe's compare section."""
    from tunesmith.generate.text import generate as write
    from tunesmith.models.load import load_for_generation
    from tunesmith.recipe import CompareSection

    asked = recipe.compare if recipe is not None else CompareSection()
    model, tokenizer = load_for_generation(name)
    values = {
        "max_new_tokens": asked.max_new_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "seed": asked.seed,
    }
    return write(model, tokenizer, prompts, **{**values, **options})


def _speaker(console: Console) -> Say:
    return partial(console.print, highlight=False, markup=False, soft_wrap=True)


def _resume_command(path: Path, *, small: bool, force: bool) -> str:
    recipe, run = shlex.quote(str(path / RECIPE)), shlex.quote(str(path))
    more = (" --small" if small else "") + (" --force" if force else "")
    return f"tunesmith train {recipe} --out {run} --resume{more}"


def _recipe_and_path(
    recipe: Recipe | str | Path, out: str | Path | None, overrides: list[str] | tuple[str, ...], small: bool
) -> tuple[Recipe, Path]:
    if isinstance(recipe, Recipe):
        if out is None:
            raise RunError("train: a Recipe has no name of its own. Say where the run goes: out='runs/name'.")
        return recipe, check_run_path(out)
    loaded = Recipe.load(recipe, overrides)
    default = Path("runs") / (Path(recipe).stem + (SMALL_SUFFIX if small else ""))
    return loaded, check_run_path(out if out is not None else default)


def _check_out(path: Path, recipe: Recipe, *, resume: bool, fresh: bool, force: bool) -> None:
    """Refuse a run directory that this recipe may not go on in, before any work is done."""
    from tunesmith.training.resume import begun_recipe, check_recipe

    if resume and fresh:
        raise RunError("--resume and --fresh exclude each other. Give one.")
    exists = RunDir.is_run(path)
    if resume and not exists:
        raise RunError(f"{path}: no run to resume (no {RECIPE}). Leave out --resume to start one.")
    if not exists or fresh or force:
        return
    begun = begun_recipe(RunDir.open(path))
    if begun is not None:
        check_recipe(path, begun, recipe)


def _prepare(recipe: Recipe, console: Console, *, small: bool) -> tuple[Any, Any, Data]:
    from tunesmith.data import prepare
    from tunesmith.models.find import find_model
    from tunesmith.models.tokenizer import load_tokenizer
    from tunesmith.show.data import DataProgress

    source = find_model(recipe.model.name, recipe.model.revision)
    tokenizer = load_tokenizer(source)
    with DataProgress(console) as progress:
        return (
            source,
            tokenizer,
            prepare(recipe.data, tokenizer, recipe.train.max_length, small=small, progress=progress),
        )


def _plan(recipe: Recipe, data: Data, checkpoint: Checkpoint | None, out: Path) -> Plan:
    """A run that goes on keeps the plan it began with; only its length and what follows from that may change."""
    from tunesmith.plan import continue_plan, detect_machine, make_plan

    if checkpoint is None:
        return make_plan(recipe, data, detect_machine(), out=out)
    begun = CheckpointInfo.parse(checkpoint.info, str(checkpoint.path))
    return continue_plan(recipe, data, detect_machine(), begun, out=out)
