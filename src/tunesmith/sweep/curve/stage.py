"""The curve: shares of the training rows, trained one after the other; the same command goes on where it stopped.

Each share is a run of its own in FOLDER/shares, scored on the same held-out rows. One that was cut off goes on from
its checkpoint; one that ended stands in curve.json, and its model is deleted.
"""

from __future__ import annotations

import gc
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tunesmith.errors import Stopped, SweepError
from tunesmith.pipeline import Prepared
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import Plan, Result
from tunesmith.run.directory import CHECKPOINTS, MODEL
from tunesmith.sweep.begun import check_same
from tunesmith.sweep.curve.asked import Asked, check_asked, rows_in
from tunesmith.sweep.curve.forecast import forecast
from tunesmith.sweep.curve.outcome import read_curve, write_curve
from tunesmith.sweep.curve.values import Curve, Point

if TYPE_CHECKING:
    from tunesmith.data import Data
    from tunesmith.training.base import Base

BEGUN, SHARES = "asked.json", "shares"
MAX_NAME = 40
"""Characters of a model's name in that of a folder."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Run:
    """A share of the rows for one model."""

    model: str
    share: float
    num_rows: int
    again: bool = False
    is_bigger: bool = False

    @property
    def folder(self) -> str:
        who = re.sub(r"[^A-Za-z0-9._]+", "-", self.model).strip("-.") if self.is_bigger else "asked"
        return f"{who[-MAX_NAME:]}-{self.share:g}{'-again' if self.again else ''}"

    def is_at(self, point: Point) -> bool:
        return (self.model, self.share, self.again) == (point.model, point.share, point.again)


@dataclass(frozen=True)
class _Trained:
    """The recipe with its model or with the bigger one, and what was prepared for it."""

    recipe: Recipe
    prepared: Prepared
    base: Base


def draw_curve(
    recipe: Recipe,
    folder: Path,
    prepared: Prepared,
    asked: Asked,
    *,
    prepare: Callable[[Recipe], Prepared],
    say: Say,
) -> Curve:
    """Train the shares of `asked` that are not trained yet and forecast; writes curve.json and curve.html.

    prepare: makes ready what the bigger model reads. Raises SweepError for shares that make no sense and for a folder
    of another curve, Stopped for a stop that was asked for: the same command goes on.
    """
    from tunesmith.data.shares import count_rows

    num_rows = count_rows(prepared.data)
    check_asked(asked, recipe, num_rows, prepared.data.eval.num_targets)
    folder.mkdir(parents=True, exist_ok=True)
    begun = {"recipe": recipe.model_dump(mode="json"), "data": prepared.data.fingerprint}
    check_same(folder / BEGUN, begun, what="shares")
    curve = read_curve(folder) or _empty(recipe, prepared.data, num_rows)
    if curve.points:
        say(f"{folder}: going on after {len(curve.points)} shares")
    trained: dict[str, _Trained] = {}
    for run in _runs(recipe.model.name, asked, num_rows):
        if any(run.is_at(point) for point in curve.points):
            continue
        if run.model not in trained:  # the one before is not needed any more
            trained = {run.model: _trained(run, recipe, prepared, prepare)}
        curve = _with_point(curve, run, trained[run.model], folder, say)
        gc.collect()
    curve = forecast(curve, asked)
    write_curve(folder, curve)
    return curve


def _runs(model: str, asked: Asked, num_rows: int) -> Iterator[_Run]:
    """The cheapest first, so that what is wrong shows early."""
    smallest, *others = ((share, rows_in(share, num_rows)) for share in asked.shares)
    yield _Run(model, *smallest)
    yield _Run(model, *smallest, again=True)
    for share, rows in others:
        yield _Run(model, share, rows)
    if asked.bigger is not None:
        yield _Run(asked.bigger, *smallest, is_bigger=True)


def _empty(recipe: Recipe, data: Data, num_rows: int) -> Curve:
    return Curve(
        model=recipe.model.name,
        num_rows=num_rows,
        num_held_out=len(data.eval),
        held_out_error=None,
        base_loss=None,
        points=(),
        exponent=None,
        floor=None,
        noise=None,
        forecasts=(),
        bigger=None,
        verdict=(),
    )


def _trained(run: _Run, recipe: Recipe, prepared: Prepared, prepare: Callable[[Recipe], Prepared]) -> _Trained:
    """Read once for all of its shares. Raises SweepError where the bigger model is scored on other rows."""
    from tunesmith.training.base import Base

    if run.is_bigger:
        recipe, held_out = recipe.with_values(**{"model.name": run.model}), prepared.data.eval
        prepared = prepare(recipe)
        own = prepared.data.eval
        if (len(own), own.num_bytes.sum()) != (len(held_out), held_out.num_bytes.sum()):
            raise SweepError(
                f"sweep --bigger {run.model}: its {len(own):,} held-out documents are not the {len(held_out):,} of "
                "the recipe's model: long rows are cut or dropped otherwise. Set train.max_length higher, or "
                "data.eval_path to shorter rows."
            )
    quiet = recipe.with_values(**{"eval.samples": 0, "save.keep": 1, "export.format": None})
    base = Base()
    return _Trained(quiet, replace(prepared, base=base), base)


def _with_point(curve: Curve, run: _Run, trained: _Trained, folder: Path, say: Say) -> Curve:
    """Train a share, and write down how it ended before its model goes."""
    from tunesmith import pipeline
    from tunesmith.data.shares import share_of

    recipe, path = trained.recipe, folder / SHARES / run.folder
    if run.again:
        recipe = recipe.with_values(**{"train.seed": recipe.train.seed + 1})
    data = share_of(trained.prepared.data, run.num_rows, seed=recipe.data.seed, last=run.again)
    say(f"training on {run.num_rows:,} of {curve.num_rows:,} rows ({run.share:.3g}){_how(run)}")
    try:
        run_dir = pipeline.train(
            recipe, path, prepared=replace(trained.prepared, data=data), console=Console(quiet=True)
        )
    except Stopped as error:
        raise Stopped(error.reason, shlex.join(["tunesmith", *sys.argv[1:]])) from None
    point = _point(run, run_dir.read(Result), run_dir.read(Plan), curve)
    say(f"  held-out loss {point.base_loss:.4f} -> {point.eval_loss:.4f} in {point.train_seconds:,.0f} s")
    spread = None if run.is_bigger else trained.base.standard_error
    changes: dict[str, object] = {
        "points": (*curve.points, point),
        "held_out_error": curve.held_out_error if spread is None else spread,
    }
    if curve.base_loss is None:
        changes["base_loss"] = point.base_loss
    curve = curve.model_copy(update=changes)
    write_curve(folder, curve)
    for name in (MODEL, CHECKPOINTS):
        shutil.rmtree(path / name, ignore_errors=True)
    return curve


def _how(run: _Run) -> str:
    if run.is_bigger:
        return f" with {run.model}"
    return ", others with another seed" if run.again else ""


def _point(run: _Run, result: Result, plan: Plan, curve: Curve) -> Point:
    """A bigger model's losses are told a token of the recipe's model, whatever its own tokens are."""
    loss, base, bits = result.eval_loss, result.eval_loss_base, result.eval_bits_per_byte
    assert loss is not None, "a curve begins with held-out rows"
    assert base is not None
    beside = curve.points_of(curve.model)[0] if run.is_bigger else None
    if beside is not None and beside.eval_bits_per_byte and bits:
        rate = bits / beside.eval_bits_per_byte * beside.eval_loss / loss
        loss, base = loss * rate, base * rate
    return Point(
        model=run.model,
        share=run.share,
        again=run.again,
        num_rows=run.num_rows,
        train_tokens=result.train_tokens,
        tokens_per_step=plan.tokens_per_step,
        learning_rate=plan.learning_rate,
        steps=result.steps,
        eval_loss=loss,
        eval_bits_per_byte=bits,
        base_loss=base,
        train_seconds=result.train_seconds,
        tokens_per_second=result.tokens_per_second,
    )
