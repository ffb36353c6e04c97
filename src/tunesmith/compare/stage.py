"""The stage: a finished run -> compare.json, with what both models wrote and every score.

compare.json explains itself: each score carries its title, meaning, unit and which way is better, so that the report
reads nothing else to show it.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from tunesmith import __version__
from tunesmith.compare.general import general_documents
from tunesmith.compare.intervals import interval
from tunesmith.compare.losses import DocumentLosses, loss_by_group, score_losses
from tunesmith.compare.observe import MAX_HELD_OUT_TOKENS, Arithmetic, Observation, observe, some_documents
from tunesmith.compare.prompts import Prompt, held_out_prompts, recipe_prompts
from tunesmith.compare.samples import TrainingRows, collect_samples, writings
from tunesmith.compare.scores import score_writing
from tunesmith.data.tokens.asked import chat_of
from tunesmith.errors import DataError, RunError
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import (
    ComparedBase,
    ComparedTuned,
    Comparison,
    ComparisonCounts,
    GroupLoss,
    GroupLosses,
    Plan,
    Result,
    Sample,
    Score,
)
from tunesmith.run.directory import RESULT, RunDir

if TYPE_CHECKING:
    from tunesmith.data import Data
    from tunesmith.data.rows.chat import ChatTemplate
    from tunesmith.data.tokens.documents import TokenizedDocuments
    from tunesmith.evaluate import Scores
    from tunesmith.models.tokenizer import TextTokenizer

LOSS_TOLERANCE = 0.02
"""Nats by which a held-out loss may differ from training's: other devices round otherwise, as do merged adapters."""
Say = Callable[..., None]
"""Told what is being done, and where that is counted also (done, total or None)."""


def compare(
    run_dir: RunDir,
    prompts: Sequence[str] | None = None,
    *,
    data: Data | None = None,
    say: Say = lambda *_: None,
) -> Comparison:
    """Let base and tuned write for the same prompts with the same seeds and decoding, and score both.

    prompts: instead of the recipe's. data: the run's prepared data, when the caller has it. Writes compare.json and
    returns its content. say: told what is being done. Raises RunError when the run has no finished model.
    """
    from tunesmith.models.find import find_model
    from tunesmith.models.grow import find_asked
    from tunesmith.models.tokenizer import load_tokenizer

    started = time.monotonic()
    recipe, notes = run_dir.recipe(), list[str]()
    if not run_dir.model.is_dir():
        raise RunError(
            f"{run_dir.path}: no finished model to compare. Finish the run with: "
            f"tunesmith train {run_dir.path}/recipe.yaml --out {run_dir.path} --resume"
        )
    say("finding both models")
    base_source = find_asked(recipe.model)
    tuned_source = find_model(str(run_dir.path))
    tokenizer = load_tokenizer(base_source)
    if data is None:
        say("reading the data again")
        data = _prepare_again(run_dir, recipe, tokenizer, notes, say)
    texts = _choose_texts(data, tokenizer, recipe, prompts, notes, chat_of(run_dir, tokenizer))
    arithmetic = Arithmetic.of(run_dir.find(Plan))
    say(f"base writes {len(texts.prompts)} texts")
    base = observe(base_source, texts.prompts, texts.held_out, texts.general, recipe.compare, arithmetic)
    say(f"tuned writes {len(texts.prompts)} texts")
    tuned = observe(tuned_source, texts.prompts, texts.held_out, texts.general, recipe.compare, arithmetic)
    say("scoring both")
    rows = TrainingRows(data.train if data is not None else None, tokenizer)
    samples = collect_samples(texts.prompts, base.generations, tuned.generations, rows)
    scores, telling, slices, kinds = _score(recipe, samples, base, tuned, texts)
    comparison = Comparison(
        settings=recipe.compare,
        scores=scores,
        telling=tuple(telling),
        slices=GroupLosses(column=recipe.data.slice, rows=slices),
        general=GroupLosses(rows=kinds),
        counts=ComparisonCounts(
            held_out_documents=len(texts.held_out) if texts.held_out is not None else 0,
            scored_samples=sum(sample.real is not None for sample in samples),
            training_rows=len(rows),
        ),
        samples=samples,
        base=ComparedBase(name=base_source.name, revision=base_source.revision, licence=base_source.licence),
        tuned=ComparedTuned(name=run_dir.path.name, adapter=tuned_source.adapter is not None),
        notes=(*notes, *_disagreements(run_dir, texts, base, tuned)),
        environment=environment(),
        seconds=time.monotonic() - started,
    )
    run_dir.write(_with_blind_test(run_dir, comparison))
    return run_dir.read(Comparison)


@dataclass(frozen=True)
class _Texts:
    """What both models are given: prompts to continue, documents to predict."""

    prompts: list[Prompt]
    held_out: TokenizedDocuments | None
    general: TokenizedDocuments
    complete: bool = False
    """`held_out` holds every held-out row."""


def _choose_texts(
    data: Data | None,
    tokenizer: TextTokenizer,
    recipe: Recipe,
    prompts: Sequence[str] | None,
    notes: list[str],
    chat: ChatTemplate | None,
) -> _Texts:
    asked, general = recipe_prompts(recipe.compare, prompts, chat), general_documents(tokenizer)
    held_out = _held_out(data, recipe, notes)
    if held_out is None:
        return _Texts(asked, None, general)
    asked += held_out_prompts(held_out, tokenizer, recipe.compare)
    scored = some_documents(held_out, MAX_HELD_OUT_TOKENS, recipe.compare.seed)
    return _Texts(asked, scored, general, complete=scored is held_out)


def _prepare_again(
    run_dir: RunDir, recipe: Recipe, tokenizer: TextTokenizer, notes: list[str], say: Say
) -> Data | None:
    """The run's data; None, with a note, when they are gone."""
    from tunesmith.data.again import prepare_again

    try:
        return prepare_again(run_dir, recipe, tokenizer, notes, say)
    except DataError as error:
        notes.append(f"The data could not be read again, so only the prompts of the recipe are compared: {error}")
        return None


def _held_out(data: Data | None, recipe: Recipe, notes: list[str]) -> TokenizedDocuments | None:
    if data is None:
        return None
    if not len(data.eval):
        notes.append("No held-out rows (data.eval_fraction is 0), so nothing can be scored against real texts.")
        return None
    if len(data.eval) < recipe.compare.num_samples:
        notes.append(
            f"Only {len(data.eval)} held-out rows for {recipe.compare.num_samples} samples: the intervals are wide."
        )
    return data.eval


def _disagreements(run_dir: RunDir, texts: _Texts, base: Observation, tuned: Observation) -> list[str]:
    """A note when the same held-out rows score otherwise than in result.json: something changed since training."""
    recorded = run_dir.find(Result)
    if recorded is None or not texts.complete:
        return []
    notes = []
    before_and_now = (
        ("base", recorded.eval_loss_base, base.held_out),
        ("tuned", recorded.eval_loss, tuned.held_out),
    )
    for name, before, seen in before_and_now:
        if seen is None or before is None:
            continue
        if abs(seen.loss - before) > LOSS_TOLERANCE:
            notes.append(
                f"The held-out loss of the {name} model is {seen.loss:.3f} here and {before:.3f} in {RESULT}: "
                "the data, the model's files or tunesmith changed since training."
            )
    return notes


def _score(
    recipe: Recipe, samples: Sequence[Sample], base: Observation, tuned: Observation, texts: _Texts
) -> tuple[dict[str, Score], list[str], tuple[GroupLoss, ...], tuple[GroupLoss, ...]]:
    """All scores by name, telling words, and the losses by slice of the held-out rows and by kind of general text."""
    seed, sides = recipe.compare.seed, writings(samples)
    writing, telling = score_writing(sides["base"], sides["tuned"], sides["real"], seed=seed)
    forgetting, kinds = _forgetting(base, tuned, texts.general, seed)
    held_out, slices = _held_out_scores(base, tuned, texts.held_out, seed)
    return {**held_out, **writing, **forgetting}, telling, slices, kinds


def _held_out_scores(
    base: Observation, tuned: Observation, documents: TokenizedDocuments | None, seed: int
) -> tuple[dict[str, Score], tuple[GroupLoss, ...]]:
    if documents is None or base.held_out is None or tuned.held_out is None:
        return {}, ()
    losses = _losses(base.held_out, tuned.held_out, documents)
    slices = loss_by_group(losses, documents.slices, seed=seed) if documents.slices is not None else ()
    return {**score_losses(losses, seed=seed), **_accuracy(base.held_out, tuned.held_out)}, slices


def _losses(base: Scores, tuned: Scores, documents: TokenizedDocuments) -> DocumentLosses:
    return DocumentLosses(
        base.document_loss,
        tuned.document_loss,
        documents.targets_per_document.astype(float),
        documents.num_bytes.astype(float),
    )


def _accuracy(base: Scores, tuned: Scores) -> dict[str, Score]:
    return {
        "heldout_token_accuracy": Score(
            title="Token accuracy",
            meaning="Share of held-out tokens that the model's first guess gets right",
            better="higher",
            unit="share",
            base=interval(*[base.token_accuracy] * 3),
            tuned=interval(*[tuned.token_accuracy] * 3),
            real=None,
            change=interval(*[tuned.token_accuracy - base.token_accuracy] * 3),
            gap=None,
        )
    }


def _forgetting(
    base: Observation, tuned: Observation, general: TokenizedDocuments, seed: int
) -> tuple[dict[str, Score], tuple[GroupLoss, ...]]:
    assert general.slices is not None
    losses = _losses(base.general, tuned.general, general)
    loss = score_losses(losses, seed=seed)["heldout_loss"].model_copy(
        update={
            "title": "Loss on general text",
            "meaning": "Loss on forty general passages of eight kinds; what it rises by was forgotten",
        }
    )
    return {"general_loss": loss}, loss_by_group(losses, general.slices, seed=seed)


def environment() -> dict[str, str]:
    """Versions and machine, for the report."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft", "numpy", "scikit-learn")}
    return {
        "tunesmith": __version__,
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
    }


def _with_blind_test(run_dir: RunDir, comparison: Comparison) -> Comparison:
    """A blind test made on the same texts still holds; on other texts it does not."""
    before = run_dir.find(Comparison)
    if before is None or list(map(_texts, before.samples)) != list(map(_texts, comparison.samples)):
        return comparison
    return comparison.model_copy(update={"blind": before.blind})


def _texts(sample: Sample) -> tuple[str, str, str]:
    return sample.prompt, sample.base.text, sample.tuned.text
