"""Texts in, numbers out: how base and tuned write, measured against real held-out texts. No model here, no torch.

Every score has the base, the tuned model and, where it applies, the real texts as the yardstick, each with a bootstrap
interval over prompts; `change` (tuned minus base) and `gap` (tuned minus real) are over the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tunesmith.compare.copying import MIN_COPIED_WORDS, Copied
from tunesmith.compare.intervals import Bootstrap, Floats, Weights, interval, weighted_mean, wilson_interval
from tunesmith.compare.style import score_style
from tunesmith.compare.words import words
from tunesmith.run.artefacts import Interval, Score

REPEATED_WORDS = 4
_REAL_SPLITS = 200
Side = Literal["base", "tuned", "real"]
Statistic = Callable[[Weights], Floats]
SHARE = (0.0, 1.0)
AMOUNT = (0.0, math.inf)


@dataclass(frozen=True)
class Writing:
    """What one side wrote for the scored prompts, in the order of the prompts."""

    texts: Sequence[str]
    ended: Sequence[bool]
    """Whether each text ended by itself within the length limit."""
    copied: Sequence[Copied]
    similarity: Sequence[float]
    """Of each text to its nearest training row."""


def score_writing(base: Writing, tuned: Writing, real: Writing, *, seed: int = 0) -> tuple[dict[str, Score], list[str]]:
    """All scores that need only texts, by name, and the words that most give the tuned model's texts away.

    The i-th texts of the three sides answer the same prompt.
    """
    sides: dict[Side, Writing] = {"base": base, "tuned": tuned, "real": real}
    if not len(base.texts) == len(tuned.texts) == len(real.texts):
        raise ValueError("base, tuned and real need one text for each prompt")
    if not real.texts:
        return {}, []
    bootstrap = Bootstrap(len(real.texts), seed)
    style, telling = _score_style(sides, bootstrap, seed)
    return {
        **style,
        **_score_lengths(sides, bootstrap, seed),
        **_score_variety(sides, bootstrap),
        **_score_copying(sides, bootstrap),
    }, telling


def make_score(
    bootstrap: Bootstrap,
    statistics: dict[Side, Statistic],
    bounds: tuple[float, float],
    **about: Any,
) -> Score:
    """Intervals of a statistic for each side, and of tuned minus the others over the same resamples."""
    intervals = {side: bootstrap.interval(statistic, bounds=bounds) for side, statistic in statistics.items()}
    widest = bounds[1] - bounds[0]

    def tuned_minus(side: Side) -> Interval | None:
        tuned, other = statistics["tuned"], statistics.get(side)
        if other is None:
            return None
        return bootstrap.interval(lambda weights: tuned(weights) - other(weights), bounds=(-widest, widest))

    return Score(
        base=intervals["base"],
        tuned=intervals["tuned"],
        real=intervals.get("real"),
        change=tuned_minus("base"),
        gap=tuned_minus("real"),
        **about,
    )


def _score_yes_or_no(bootstrap: Bootstrap, values: dict[Side, Floats], **about: Any) -> Score:
    """Share of the texts with value 1. Where all are alike no resample differs, so the interval is Wilson's instead."""
    score = make_score(bootstrap, {side: weighted_mean(found) for side, found in values.items()}, SHARE, **about)
    alike: dict[str, Interval] = {
        side: interval(*wilson_interval(float(found.sum()), len(found)))
        for side, found in values.items()
        if len(set(found.tolist())) == 1
    }
    return score.model_copy(update=alike)


def _score_style(sides: dict[Side, Writing], bootstrap: Bootstrap, seed: int) -> tuple[dict[str, Score], list[str]]:
    base = score_style(sides["base"].texts, sides["real"].texts, seed=seed)
    tuned = score_style(sides["tuned"].texts, sides["real"].texts, seed=seed)
    if base is None or tuned is None:
        return {}, []
    score = make_score(
        bootstrap,
        {"base": base.auc, "tuned": tuned.auc},
        SHARE,
        title="Told apart from real texts",
        meaning="AUC of a classifier that tells generated texts from real held-out ones: 0.5 cannot tell, 1 always can",
        better="lower",
        unit="AUC",
    )
    return {"style_auc": score}, list(tuned.telling)


def _score_lengths(sides: dict[Side, Writing], bootstrap: Bootstrap, seed: int) -> dict[str, Score]:
    lengths = {side: np.array([len(words(text)) for text in writing.texts], float) for side, writing in sides.items()}
    ended = {side: np.array(writing.ended, float) for side, writing in sides.items()}
    distance = make_score(
        bootstrap,
        {side: _length_distance(lengths[side], lengths["real"]) for side in ("base", "tuned")},
        AMOUNT,
        title="Distance of lengths",
        meaning="Mean gap between the lengths of generated and real texts, both sorted; real: halves of the real texts",
        better="lower",
        unit="words",
    )
    halves = _distance_of_halves(lengths["real"], seed)
    return {
        "ended": _score_yes_or_no(
            bootstrap,
            ended,
            title="Ends by itself",
            meaning="Share of texts that end before the length limit; real: those that fit in it",
            better="real",
            unit="share",
        ),
        "length": make_score(
            bootstrap,
            {side: weighted_mean(values) for side, values in lengths.items()},
            AMOUNT,
            title="Length",
            meaning="Mean length of a text, within the length limit",
            better="real",
            unit="words",
        ),
        "length_distance": distance.model_copy(update={"real": halves}),
    }


def _length_distance(generated: Floats, real: Floats) -> Statistic:
    """Earth mover's distance between two samples of equal size: the mean gap between their sorted values."""
    by_size, real_by_size = np.argsort(generated, kind="stable"), np.argsort(real, kind="stable")

    def statistic(weights: Weights) -> Floats:
        counts = weights.astype(int)
        return np.array(
            [
                np.abs(
                    np.repeat(generated[by_size], row[by_size]) - np.repeat(real[real_by_size], row[real_by_size])
                ).mean()
                for row in counts
            ]
        )

    return statistic


def _distance_of_halves(lengths: Floats, seed: int) -> Interval | None:
    half = len(lengths) // 2
    if not half:
        return None
    generator = np.random.default_rng(seed)
    distances = []
    for _ in range(_REAL_SPLITS):
        shuffled = generator.permutation(lengths)
        distances.append(np.abs(np.sort(shuffled[:half]) - np.sort(shuffled[half : 2 * half])).mean())
    low, high = np.quantile(distances, [0.025, 0.975])
    return interval(np.mean(distances), low, high)


def _score_variety(sides: dict[Side, Writing], bootstrap: Bootstrap) -> dict[str, Score]:
    texts = {side: [words(text) for text in writing.texts] for side, writing in sides.items()}
    budget = min(sum(map(len, side)) for side in texts.values())
    cut = {side: cut_to(side_texts, budget) for side, side_texts in texts.items()}
    scores = {
        f"distinct_{n}": make_score(
            bootstrap,
            {side: distinct(side_texts, n) for side, side_texts in cut.items()},
            SHARE,
            title=f"Distinct {('words', 'word pairs', 'word triples')[n - 1]}",
            meaning=f"distinct-{n}: different {n}-grams over all {n}-grams, every side cut to the same number of words",
            better="real",
            unit="share",
        )
        for n in (1, 2, 3)
    }
    scores["repetition"] = make_score(
        bootstrap,
        {side: weighted_mean(np.array([repetition(t) for t in side_texts])) for side, side_texts in texts.items()},
        SHARE,
        title="Repeats itself",
        meaning=f"Share of a text's {REPEATED_WORDS}-grams that it has already written",
        better="real",
        unit="share",
    )
    return scores


def cut_to(texts: Sequence[Sequence[str]], budget: int) -> list[Sequence[str]]:
    """`texts` with the longest shortened so that together they hold at most `budget` words (and about as many)."""
    low, high = 0, max(map(len, texts), default=0)
    while low < high:
        cap = (low + high + 1) // 2
        if sum(min(len(text), cap) for text in texts) <= budget:
            low = cap
        else:
            high = cap - 1
    return [text[:low] for text in texts]


def distinct(texts: Sequence[Sequence[str]], n: int) -> Statistic:
    """distinct-n (Li et al., 2016): different n-grams over all n-grams of the texts drawn."""
    grams = [_grams(text, n) for text in texts]
    identities = {gram: index for index, gram in enumerate(dict.fromkeys(gram for text in grams for gram in text))}
    holds = np.zeros((len(texts), len(identities)), np.float32)
    for row, text in enumerate(grams):
        holds[row, [identities[gram] for gram in text]] = 1
    totals = np.array([len(text) for text in grams], float)

    def statistic(weights: Weights) -> Floats:
        drawn = (weights > 0).astype(np.float32)
        different = np.concatenate(
            [((part @ holds) > 0).sum(axis=1) for part in np.array_split(drawn, 20) if len(part)]
        )
        total = weights @ totals
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = np.where(total > 0, different / total, np.nan)
        return result

    return statistic


def repetition(text: Sequence[str]) -> float:
    """Share of 4-grams that stand earlier in the same text (Welleck et al., 2020); NaN for a text shorter than one."""
    grams = _grams(text, REPEATED_WORDS)
    return 1 - len(set(grams)) / len(grams) if grams else math.nan


def _grams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]


def _score_copying(sides: dict[Side, Writing], bootstrap: Bootstrap) -> dict[str, Score]:
    def means(values: Callable[[Writing], list[float]]) -> dict[Side, Statistic]:
        return {side: weighted_mean(np.array(values(writing), float)) for side, writing in sides.items()}

    return {
        "copied_texts": _score_yes_or_no(
            bootstrap,
            {side: np.array([bool(copied.spans) for copied in it.copied], float) for side, it in sides.items()},
            title="Copies training rows",
            meaning=f"Share of texts with {MIN_COPIED_WORDS} or more words in a row that stand in one training row",
            better="at most real",
            unit="share",
        ),
        "copied_words": make_score(
            bootstrap,
            means(lambda side: [copied.share for copied in side.copied]),
            SHARE,
            title="Copied words",
            meaning="Share of a text's words that lie in such copied spans",
            better="at most real",
            unit="share",
        ),
        "copied_longest": make_score(
            bootstrap,
            means(lambda side: [float(copied.longest) for copied in side.copied]),
            AMOUNT,
            title="Longest overlap",
            meaning="Mean length of a text's longest span that stands word for word in one training row",
            better="real",
            unit="words",
        ),
        "nearest_similarity": make_score(
            bootstrap,
            means(lambda side: list(side.similarity)),
            SHARE,
            title="Likeness to the nearest training row",
            meaning="Mean TF-IDF cosine to the most similar training row: 1 is the same words",
            better="real",
            unit="cosine",
        ),
    }
