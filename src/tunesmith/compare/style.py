"""Can a reader tell generated texts from real ones? TF-IDF + logistic regression, cross-validated.

AUC: the probability that the classifier ranks a random real text above a random generated one. 0.5: it cannot tell them
apart; 1: it always can. A classifier two-sample test (Lopez-Paz and Oquab, 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.compare.copying import words_and_pairs
from tunesmith.compare.intervals import Floats, Weights
from tunesmith.compare.words import words

MIN_TEXTS = 10
"""Texts of each kind below which no classifier is fit."""
NUM_FOLDS = 5
NUM_REPEATS = 3
NUM_TELLING = 8


@dataclass(frozen=True)
class StyleScores:
    """How real each text looked to classifiers that had not seen it (nor its pair), pair by pair."""

    generated: Floats
    real: Floats
    telling: tuple[str, ...]
    """Words and word pairs that most give generated texts away."""

    @property
    def auc(self) -> Callable[[Weights], Floats]:
        """The AUC as a statistic over pairs, for the bootstrap."""
        wins = (self.real[:, None] > self.generated[None, :]) + 0.5 * (self.real[:, None] == self.generated[None, :])

        def statistic(weights: Weights) -> Floats:
            total = weights.sum(axis=1) ** 2
            result: Floats = ((weights @ wins) * weights).sum(axis=1) / total
            return result

        return statistic


def score_style(generated: Sequence[str], real: Sequence[str], *, seed: int = 0) -> StyleScores | None:
    """Cross-validated scores for pairs of texts: `generated[i]` and `real[i]` answer the same prompt.

    A pair never straddles a fold, so a shared topic gives nothing away. None when there are fewer than `MIN_TEXTS`
    pairs or no words at all.
    """
    if len(generated) != len(real):
        raise ValueError(f"pairs expected: {len(generated)} generated texts, {len(real)} real ones")
    if len(real) < MIN_TEXTS or not any(words(text) for text in (*generated, *real)):
        return None
    from sklearn.model_selection import KFold

    fake, true = np.array(generated, dtype=object), np.array(real, dtype=object)
    scores = np.zeros((2, len(real)))
    for repeat in range(NUM_REPEATS):
        for fit, held in KFold(NUM_FOLDS, shuffle=True, random_state=seed + repeat).split(real):
            classifier = _fit(fake[fit], true[fit])
            scores[0, held] += classifier.decision_function(fake[held])
            scores[1, held] += classifier.decision_function(true[held])
    return StyleScores(scores[0], scores[1], _telling(_fit(fake, true)))


def _fit(generated: Any, real: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(analyzer=words_and_pairs, sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000)
    )
    return classifier.fit([*generated, *real], [0] * len(generated) + [1] * len(real))


def _telling(classifier: Any) -> tuple[str, ...]:
    vectorizer, regression = classifier[0], classifier[-1]
    order = np.argsort(regression.coef_[0])[:NUM_TELLING]
    names = vectorizer.get_feature_names_out()
    return tuple(str(names[index]) for index in order if regression.coef_[0][index] < 0)
