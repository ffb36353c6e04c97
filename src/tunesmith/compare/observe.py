"""One model at a time: what it writes for the prompts, and what it loses on held-out and general texts."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.compare.prompts import Prompt
from tunesmith.data.tokens.documents import TokenizedDocuments
from tunesmith.recipe import CompareSection
from tunesmith.run.artefacts import Plan

if TYPE_CHECKING:
    from tunesmith.evaluate import Scores
    from tunesmith.generate.text import Generation
    from tunesmith.models.find import ModelSource

MAX_HELD_OUT_TOKENS = 32_768
"""Held-out tokens that are scored again for intervals and slices: enough for a narrow interval, seconds on a CPU."""


BATCH_SIZE = 96
"""Texts written at once: all of them, with the recipe's defaults. A step of many rows costs little more than of one."""
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
PASS_TOKENS = 2048
"""Tokens of one forward pass where there is no plan."""


@dataclass(frozen=True)
class Arithmetic:
    """How a model is scored: in that of the run, in its batches, so that the same rows have the same loss."""

    precision: str = "fp32"
    """fp32, or autocast to bf16 or fp16."""
    dtype: str = "float32"
    """Type in which the weights are held."""
    max_tokens: int = PASS_TOKENS
    """Fed tokens of one forward pass."""

    @classmethod
    def of(cls, plan: Plan | None) -> Arithmetic:
        """That of the run's own evaluations; float32 where there is no plan, or it trained on another device."""
        import torch

        from tunesmith.evaluate import batch_tokens

        if plan is None or (plan.device == "cuda") != torch.cuda.is_available():
            return cls()
        return cls(plan.precision, plan.dtype, batch_tokens(plan))


@dataclass(frozen=True)
class Observation:
    """What one model did."""

    generations: list[Generation]
    held_out: Scores | None
    general: Scores


def observe(
    source: ModelSource,
    prompts: Sequence[Prompt],
    held_out: TokenizedDocuments | None,
    general: TokenizedDocuments,
    section: CompareSection,
    arithmetic: Arithmetic,
) -> Observation:
    """Load a model, score it, let it write for all prompts in one batched call, and let it go again.

    Scored in `arithmetic`. It writes in float32 on a CPU, which shows the least of rounding, and on a GPU in the type
    of the arithmetic, so that what could be trained fits.
    """
    import torch

    from tunesmith import fast
    from tunesmith.evaluate import evaluate
    from tunesmith.generate.text import generate
    from tunesmith.models.load import load_model
    from tunesmith.models.tokenizer import load_tokenizer
    from tunesmith.step import autocast

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(source, dtype=arithmetic.dtype, device=device)
    applied = fast.apply(model)
    with autocast(arithmetic.precision, device):
        scored = held_out is not None and held_out.num_targets > 0
        scores = (
            evaluate(model, held_out, max_tokens=arithmetic.max_tokens) if held_out is not None and scored else None
        )
        general_scores = evaluate(model, general, max_tokens=arithmetic.max_tokens)
    applied.restore()
    model = model.to(getattr(torch, DTYPES.get(arithmetic.precision, "float32") if device == "cuda" else "float32"))
    generations = generate(
        model,
        load_tokenizer(source),
        [prompt.text if prompt.ids is None else prompt.ids for prompt in prompts],
        max_new_tokens=section.max_new_tokens,
        temperature=section.temperature,
        top_p=section.top_p,
        seed=section.seed,
        batch_size=BATCH_SIZE,
    )
    observation = Observation(generations, scores, general_scores)
    del model, applied
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return observation


def some_documents(documents: TokenizedDocuments, max_tokens: int, seed: int) -> TokenizedDocuments:
    """All documents when they hold at most `max_tokens` tokens together, otherwise a random part that does."""
    if int(documents.lengths.sum()) <= max_tokens:
        return documents
    order = np.random.default_rng(seed).permutation(len(documents))
    within = np.cumsum(documents.lengths[order]) <= max_tokens
    chosen = np.sort(order[within] if within.any() else order[:1]).tolist()
    part = TokenizedDocuments.from_lists(
        [(ids.tolist(), supervised.tolist()) for ids, supervised in (documents[index] for index in chosen)]
    )
    slices = documents.slices
    return replace(
        part,
        num_bytes=documents.num_bytes[chosen],
        rows=documents.rows[chosen],
        slices=[slices[index] for index in chosen] if slices is not None else None,
    )
