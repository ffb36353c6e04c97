"""The story in one function.

recipe -> data -> plan -> train -> evaluate -> compare -> report; and export, where the recipe names it
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import RunError
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import CheckpointInfo
from tunesmith.run.directory import COMPARE, RECIPE, REPORT, RunDir, check_run_path
from tunesmith.run.observer import Callbacks, Calling
from tunesmith.run.standing import resume_command

if TYPE_CHECKING:
    from rich.console import Console

    from tunesmith.audit.findings import AuditReport
    from tunesmith.data import Data
    from tunesmith.models.find import ModelSource
    from tunesmith.models.tokenizer import TextTokenizer
    from tunesmith.run.artefacts import Finding, Plan, Result
    from tunesmith.training import Job
    from tunesmith.training.base import Base
    from tunesmith.training.checkpoints.checkpoint import Checkpoint
    from tunesmith.training.checkpoints.mirror import Mirror

Say = Callable[[str], None]
SMALL_SUFFIX = "-small"


@dataclass(frozen=True)
class Prepared:
    """What the stages before training made. A caller that looked at it first hands it on, and nothing is done twice."""

    source: ModelSource
    tokenizer: TextTokenizer
    data: Data
    audited: AuditReport | None = None
    """None: it is audited, and what the audit warns of is said, before training."""
    plan: Plan | None = None
    """None: it is planned before training."""
    base: Base | None = None
    """What the runs of this process share, where there are several."""


def train(
    recipe: Recipe,
    path: Path,
    *,
    prepared: Prepared | None = None,
    small: bool = False,
    resume: bool = False,
    fresh: bool = False,
    force: bool = False,
    after: Path | None = None,
    stop_on_hangup: bool = False,
    console: Console | None = None,
    callbacks: Callbacks | None = None,
) -> RunDir:
    """Run a recipe from data to tuned model in the run directory `path`; an unfinished run there goes on.

    prepared: what was made of this recipe before. after: a run of this machine that is waited for before this one is
    planned. stop_on_hangup: a terminal that goes away is a stop. callbacks: of a Python caller. Else, and in errors, as
    `tunesmith.train`.
    """
    from rich.console import Console

    from tunesmith.machine import driver
    from tunesmith.machine.heap import importing
    from tunesmith.run.detach import wait_for
    from tunesmith.run.notify import notifying
    from tunesmith.run.signals import StopRequest
    from tunesmith.show.doing import LOADING, Doing
    from tunesmith.show.progress import Progress

    _check_flags(path, resume=resume, fresh=fresh)
    if after is None:
        driver.wake()
    else:
        RunDir.open(after)
    first = is_first_process()
    console = (console or Console(stderr=True)) if first else Console(quiet=True)
    say = _speaker(console)
    with StopRequest("the same command", stop_on_hangup=stop_on_hangup) as stop:
        with stop.at_once(), Doing(console) as doing:
            source = prepared.source if prepared else check_inputs(recipe, doing)
            doing(LOADING)
            with importing():
                from tunesmith import training
                from tunesmith.training.trackers import check_trackers
            check_trackers(recipe.train.report_to)
            mirror = _mirror(recipe, say)
            if recipe.export.format is not None:
                from tunesmith.export.stage import check_recipe

                if told := check_recipe(recipe, source.path):
                    say(told)
            if not fresh and not force:
                _check_begun(path, recipe)
            begun = None if fresh else path
            prepared = prepared or prepare_inputs(recipe, doing, small=small, source=source, begun=begun)
            doing("looking at the data")
            findings = _audit(recipe, prepared, say)
        with _locked_run(path, say, writes=first) as run_dir:
            if fresh:
                run_dir.clear()
            run_dir.remove_leftovers()
            if mirror is not None:
                _take_from(mirror, run_dir, recipe, say, fresh=fresh)
            stop.resume = resume_command(path, (" --small" if small else "") + (" --force" if force else ""))
            if after is not None:
                wait_for(RunDir.open(after), run_dir, stop, say)
            with Doing(console) as doing:
                doing("planning")
                job = _job(recipe, prepared, run_dir, say, force=force)
            run_dir.write_recipe(recipe)
            run_dir.write(prepared.data.account.model_copy(update={"findings": findings}))
            if _is_finished(job, say):
                return run_dir
            with notifying(recipe.notify, run_dir, say) as tell:
                with Progress(console) as progress:
                    called = replace(callbacks or Callbacks(), on_event=tell)
                    observer = Calling(progress, called, stop.ask)
                    result = training.train(job, stop, observer)
                _conclude(run_dir, result, say)
                _export(recipe, run_dir, console, say)
    return run_dir


def recipe_and_path(
    recipe: Recipe | str | Path,
    out: str | Path | None,
    overrides: list[str] | tuple[str, ...] = (),
    *,
    small: bool = False,
) -> tuple[Recipe, Path]:
    """What is asked, and where the run goes: `out`, or runs/<name of the recipe file>, with -small after it.

    Raises RecipeError and RunError for what the user can fix.
    """
    if isinstance(recipe, Recipe):
        if out is None:
            raise RunError("train: a Recipe has no name of its own. Say where the run goes: out='runs/name'.")
        return recipe, check_run_path(out)
    loaded = Recipe.load(recipe, overrides)
    default = Path("runs") / (Path(recipe).stem + (SMALL_SUFFIX if small else ""))
    return loaded, check_run_path(out if out is not None else default)


@contextmanager
def _locked_run(path: Path, say: Say, *, writes: bool) -> Iterator[RunDir]:
    """The run directory, locked by the process that writes. Made folders go again where no run begins in them."""
    from tunesmith.run.lock import RunLock

    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    run_dir = RunDir.create(path)
    run_dir.writes = writes
    try:
        with RunLock(run_dir, say) if writes else nullcontext():
            yield run_dir
    except BaseException:
        if missing and writes and not RunDir.is_run(path):
            with suppress(OSError):  # something else was put there
                run_dir.remove_leftovers()
                for folder in missing:
                    folder.rmdir()
        raise


def is_first_process() -> bool:
    """Whether this process writes and speaks for all that train together, as torchrun numbers them."""
    return os.environ.get("RANK", "0") == "0"


def _audit(recipe: Recipe, prepared: Prepared, say: Say) -> tuple[Finding, ...]:
    """Say what the audit warns of and refuse what it blocks. Returns the findings for data.json."""
    from tunesmith.audit.findings import describe
    from tunesmith.audit.stage import audit
    from tunesmith.models.positions import positions_of

    data, tokenizer = prepared.data, prepared.tokenizer
    positions = positions_of(prepared.source)
    report = prepared.audited or audit(data, tokenizer, recipe.data, data.account.max_length, positions)
    report.check()
    if prepared.audited is None:
        for note in data.account.notes:
            say(f"data: {note}")
        for finding in report.warnings:
            say(f"data: {describe(finding)}")
    return report.findings


def _is_finished(job: Job, say: Say) -> bool:
    """Whether nothing is left to train; else the run directory is made ready, and it is said where the run goes on."""
    from tunesmith.training.checkpoints.resume import finished_result, is_as_patient

    run_dir, checkpoint, num_steps = job.run_dir, job.checkpoint, job.plan.num_steps
    result = None
    if checkpoint is not None:
        early = is_as_patient(job.plan, checkpoint)
        result = finished_result(run_dir, checkpoint.step, num_steps, may_end_early=early)
    if result is not None:
        how = "ended early" if result.ended_early else "already finished"
        say(f"{run_dir.path}: {how} at step {result.steps}. --fresh trains it again.")
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


def _export(recipe: Recipe, run_dir: RunDir, console: Console, say: Say) -> None:
    """What the recipe's export section asks for."""
    if recipe.export.format is None or not run_dir.writes:
        return
    from tunesmith.export.stage import asked_of, export
    from tunesmith.show.doing import Doing
    from tunesmith.show.export import export_lines

    asked = asked_of(recipe.export)
    assert asked is not None
    with Doing(console, "export") as doing:
        done = export(run_dir, asked, doing)
    for line in (*export_lines(done.record), f"exported to {done.address}"):
        say(line)


def _job(recipe: Recipe, prepared: Prepared, run_dir: RunDir, say: Say, *, force: bool) -> Job:
    from tunesmith.training import Job
    from tunesmith.training.checkpoints.resume import find_checkpoint, model_fingerprint

    source, data = prepared.source, prepared.data
    fingerprints = {"data": data.fingerprint, "model": model_fingerprint(source)}
    checkpoint = find_checkpoint(run_dir, recipe, fingerprints, say, force=force)
    planned = prepared.plan if checkpoint is None else None
    plan = planned or _plan(recipe, prepared, checkpoint, run_dir.path)
    base = prepared.base
    return Job(recipe, plan, source, prepared.tokenizer, data, run_dir, fingerprints, checkpoint, base)


def _mirror(recipe: Recipe, say: Say) -> Mirror | None:
    """Where checkpoints are copied to; it is known that they can be."""
    if recipe.save.mirror is None:
        return None
    from tunesmith.training.checkpoints.mirror import Mirror

    mirror = Mirror(recipe.save.mirror, say)
    mirror.check()
    return mirror


def _take_from(mirror: Mirror, run_dir: RunDir, recipe: Recipe, say: Say, *, fresh: bool) -> None:
    """The checkpoint to go on from, where the run has none; or make place for those of a run that starts over."""
    if not fresh:
        if not run_dir.has(RECIPE):  # a kill from here on leaves a run
            run_dir.write_recipe(recipe)
        mirror.pull(run_dir.checkpoints, say)
    elif run_dir.writes:
        mirror.clear()


def _speaker(console: Console) -> Say:
    return partial(console.print, highlight=False, markup=False, soft_wrap=True)


def _check_flags(path: Path, *, resume: bool, fresh: bool) -> None:
    if resume and fresh:
        raise RunError("--resume and --fresh exclude each other. Give one.")
    if resume and not RunDir.is_run(path):
        raise RunError(f"{path}: no run to resume (no {RECIPE}). Leave out --resume to start one.")
    RunDir(path).check_content()


def _check_begun(path: Path, recipe: Recipe) -> None:
    """Refuse a run directory that this recipe may not go on in, before any work is done."""
    if not RunDir.is_run(path):
        return
    from tunesmith.training.checkpoints.resume import begun_recipe, check_recipe

    begun = begun_recipe(RunDir.open(path))
    if begun is not None:
        check_recipe(path, begun, recipe)


def check_inputs(recipe: Recipe, doing: Callable[..., None]) -> ModelSource:
    """What costs little and is often wrong, before torch is loaded: the columns that the recipe names, and the model.

    Raises DataError and ModelError. Returns the model that was found.
    """
    doing("looking at the files")
    from tunesmith.data.rows.columns import check_columns
    from tunesmith.models.grow import find_asked

    check_columns(recipe.data)
    doing("finding the model")
    return find_asked(recipe.model)


def prepare_inputs(
    recipe: Recipe,
    doing: Callable[..., None],
    *,
    small: bool,
    source: ModelSource | None = None,
    begun: Path | None = None,
) -> Prepared:
    """The model that was found, its tokenizer, and the recipe's data prepared for it.

    begun: where a run may lie that goes on; a template that writes the date then writes the one it began with.
    """
    source = source or check_inputs(recipe, doing)
    from tunesmith.data import prepare
    from tunesmith.data.tokens.asked import begun_on
    from tunesmith.models.positions import document_length, positions_of
    from tunesmith.models.tokenizer import load_tokenizer

    doing("reading the tokenizer")
    tokenizer = load_tokenizer(source)
    doing("reading the data")
    date = begun_on(RunDir.open(begun)) if begun is not None and RunDir.is_run(begun) else None
    max_length = document_length(recipe.train.max_length, positions_of(source))
    data = prepare(recipe.data, tokenizer, max_length, small=small, progress=doing, date=date)
    return Prepared(source, tokenizer, data)


def _plan(recipe: Recipe, prepared: Prepared, checkpoint: Checkpoint | None, out: Path) -> Plan:
    """A run that goes on keeps the plan it began with; only its length and what follows from that may change."""
    from tunesmith.plan import continue_plan, detect_machine, make_plan

    data, source, machine = prepared.data, prepared.source, detect_machine()
    if checkpoint is None:
        return make_plan(recipe, data, machine, source=source, out=out)
    begun = CheckpointInfo.parse(checkpoint.info, str(checkpoint.path))
    return continue_plan(recipe, data, machine, begun, source=source, out=out)
