"""What leaves a run: its tuned model in float32, its adapter still beside the base, and the rows to prove it on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.compare.general import general_documents
from tunesmith.compare.observe import some_documents
from tunesmith.data.again import prepare_again
from tunesmith.data.tokens.documents import TokenizedDocuments
from tunesmith.errors import DataError, RunError
from tunesmith.models.adapters import attach_lora, put_on
from tunesmith.models.find import ModelSource, find_model
from tunesmith.models.grow import find_asked
from tunesmith.models.load import load_model
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import CheckpointInfo, DataAccount, EvalScores, Plan, Result
from tunesmith.run.directory import RunDir
from tunesmith.training.checkpoints.checkpoint import newest_valid_checkpoint
from tunesmith.training.checkpoints.saves import MODEL_STATE
from tunesmith.training.checkpoints.state import load_trainable

MAX_ROW_TOKENS = 4096
"""Held-out tokens that are scored: a loss that is known to about 0.01, in seconds."""


@dataclass(frozen=True)
class Weights:
    """Which weights of a run leave it."""

    where: str
    """model, or checkpoints/step-N of a run that did not end."""
    base: ModelSource
    plan: Plan
    result: Result


@dataclass(frozen=True)
class Rows:
    """What both are scored on."""

    documents: TokenizedDocuments
    what: str
    starts: bool
    """Whether each begins with the tokenizer's start token."""


def find_weights(run_dir: RunDir, recipe: Recipe, *, force: bool) -> Weights:
    """The finished model of a run, or with `force` its newest checkpoint.

    Raises RunError that names that checkpoint, where the run did not end.
    """
    base = find_asked(recipe.model)
    if run_dir.model.is_dir():
        return Weights("model", base, run_dir.read(Plan), run_dir.read(Result))
    checkpoint, _ = newest_valid_checkpoint(run_dir.checkpoints)
    finish = f"tunesmith train {run_dir.path}/recipe.yaml --out {run_dir.path} --resume"
    if checkpoint is None:
        raise RunError(f"{run_dir.path}: not finished, and holds no checkpoint to export. Finish it with: {finish}")
    info = CheckpointInfo.parse(checkpoint.info, str(checkpoint.path))
    if not force:
        raise RunError(
            f"{run_dir.path}: not finished; its newest checkpoint is {checkpoint.path.name} of {info.plan.num_steps}. "
            f"Finish it with: {finish}, or export that checkpoint with --force."
        )
    where = f"{run_dir.checkpoints.name}/{checkpoint.path.name}"
    return Weights(where, base, info.plan, run_dir.find(Result) or _result_of(info.eval, checkpoint.step))


def load_tuned(run_dir: RunDir, weights: Weights) -> Any:
    """The tuned model in float32; an adapter is not merged yet, and its base is never the quantised one.

    Raises ModelError when the base is not the one that the adapter was trained on.
    """
    plan, base = weights.plan, weights.base
    if weights.where == "model":
        source = find_model(str(run_dir.path))
        model = load_model(replace(source, adapter=None))
        return model if source.adapter is None else put_on(model, source)
    trains_base = plan.lora is None or plan.lora.init == "pissa"
    model = load_model(base, dtype=plan.dtype if trains_base else "float32")
    if plan.lora is not None:
        model = attach_lora(model, plan.lora, "lora" if plan.method == "qlora" else plan.method)
    load_trainable(model, run_dir.file(weights.where) / MODEL_STATE)
    return model.float().eval()


def load_quantised(run_dir: RunDir, weights: Weights) -> Any | None:
    """The tuned model of a QLoRA run on its base in 4 bits; None for other runs, or without bitsandbytes."""
    if weights.plan.method != "qlora" or weights.where != "model":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        return None
    source = find_model(str(run_dir.path))
    return put_on(load_model(replace(source, adapter=None), quantize=True), source)


def load_own_tokenizer(run_dir: RunDir, weights: Weights) -> TextTokenizer:
    """The tokenizer as the run used it."""
    return load_tokenizer(find_model(str(run_dir.path)) if weights.where == "model" else weights.base)


def find_rows(
    run_dir: RunDir, recipe: Recipe, tokenizer: TextTokenizer, notes: list[str], say: Callable[..., None]
) -> Rows:
    """Held-out rows of the run; where it has none its training rows, and where they are gone general passages."""
    try:
        data = prepare_again(run_dir, recipe, load_tokenizer(find_asked(recipe.model)), notes, say)
        chosen, what = (data.eval, "held-out rows") if data.eval.num_targets else (data.train, "training rows")
        if what == "training rows":
            notes.append("Nothing was held out (data.eval_fraction is 0): the losses are those of training rows.")
    except DataError as error:
        notes.append(f"The run's data could not be read again, so general passages were scored: {error}")
        chosen, what = general_documents(tokenizer), "general passages"
    documents = some_documents(chosen, MAX_ROW_TOKENS, recipe.compare.seed)
    return Rows(documents, what, bool(documents[0][0][0] == tokenizer.start_id))


def is_chat(run_dir: RunDir) -> bool:
    """Whether the run learned conversations."""
    account = run_dir.find(DataAccount)
    return account is not None and account.kind == "chat"


def _result_of(scores: EvalScores | None, step: int) -> Result:
    """What is known of a run that ended without a word."""
    unknown = dict.fromkeys(Result.model_fields)
    spent = {"train_tokens": 0, "train_seconds": 0.0, "total_seconds": 0.0, "save_seconds": 0.0, "eval_seconds": 0.0}
    known = {"peak_bytes": 0, "steps": step, "stopped": "crashed", "events": (), "version": Result.VERSION}
    return Result(**{**unknown, **spent, **known, **(scores.to_json() if scores else {})})
