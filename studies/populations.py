# SPDX-License-Identifier: Apache-2.0
"""Populations of paired answers with a known drop; samples have the size of a validation split."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Sample:
    """Arguments of ``compare_metric``."""

    baseline: Rows
    cell: Rows
    clusters: list[str] | None = None


Population = Callable[[float, np.random.Generator], Sample]


def two_labels(
    rows: int, positive: float, wrong: float, changed: float, value: Callable[[Mapping[str, float]], float]
) -> Population:
    """Two labels; a fixed share of answers changes, and the drop sets how many of the changed answers were right.

    Args:
        rows: rows per sample.
        positive: share of label 1.
        wrong: share of wrong answers of the baseline, in each class.
        changed: share of answers that differ between baseline and candidate.
        value: computes the metric from the shares tp, fp, fn, tn.
    """
    kinds = [(label, before, after) for label in (0, 1) for before in (0, 1) for after in (0, 1)]

    def shares(right_share: float) -> np.ndarray:
        found = []
        for label, before, after in kinds:
            share = (positive if label else 1 - positive) * (1 - wrong if label == before else wrong)
            flips = changed * (right_share / (1 - wrong) if label == before else (1 - right_share) / wrong)
            found.append(share * (flips if before != after else 1 - flips))
        return np.array(found)

    def drop(right_share: float) -> float:
        parts = shares(right_share)

        def of(which: int) -> float:
            names = {(1, 1): "tp", (0, 1): "fp", (1, 0): "fn", (0, 0): "tn"}
            confusion = dict.fromkeys(names.values(), 0.0)
            for kind, part in zip(kinds, parts, strict=True):
                confusion[names[kind[0], kind[which]]] += part
            return value(confusion)

        return of(1) - of(2)

    def draw(true_drop: float, rng: np.random.Generator) -> Sample:
        chances = shares(optimize.brentq(lambda right: drop(right) - true_drop, 0, 1))
        drawn = rng.choice(len(kinds), size=rows, p=chances)
        before, after = (
            [
                {"id": number, "label": kinds[kind][0], "prediction": kinds[kind][which]}
                for number, kind in enumerate(drawn)
            ]
            for which in (1, 2)
        )
        return Sample(before, after)

    return draw


def f1_of(confusion: Mapping[str, float]) -> float:
    """F1 of label 1."""
    return 2 * confusion["tp"] / (2 * confusion["tp"] + confusion["fp"] + confusion["fn"])


def matthews_of(confusion: Mapping[str, float]) -> float:
    """Matthews correlation."""
    tp, fp, fn, tn = (confusion[name] for name in ("tp", "fp", "fn", "tn"))
    return (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


def noisy_scores(rows: int, correlation: float, noise: float, *, ranks: bool = False) -> Population:
    """Normal labels and predictions; baseline and candidate each add independent noise to every prediction.

    Args:
        rows: rows per sample.
        correlation: correlation of label and prediction before noise is added.
        noise: standard deviation of the baseline's noise; the predictions have 1.
        ranks: whether the metric is Spearman's correlation (else Pearson's).
    """

    def known(spread: float) -> float:
        pearson = correlation / math.sqrt(1 + spread**2)
        return 6 / math.pi * math.asin(pearson / 2) if ranks else pearson

    def draw(true_drop: float, rng: np.random.Generator) -> Sample:
        more = optimize.brentq(lambda spread: known(noise) - known(spread) - true_drop, 0.0, 10.0)
        labels, other, before, after = rng.normal(size=(4, rows))
        shared = correlation * labels + math.sqrt(1 - correlation**2) * other
        return Sample(_scored(labels, shared + noise * before), _scored(labels, shared + more * after))

    return draw


def lost_scores(rows: int, correlation: float) -> Population:
    """All predictions are equal, except a few that the candidate replaces by the mean (Pearson).

    Args:
        rows: rows per sample.
        correlation: correlation of the baseline.
    """

    def draw(true_drop: float, rng: np.random.Generator) -> Sample:
        labels, other = rng.normal(size=(2, rows))
        predictions = correlation * labels + math.sqrt(1 - correlation**2) * other
        # Predictions set to 0 with probability e: correlation times sqrt(1 - e).
        lost = rng.random(rows) < 1 - ((correlation - true_drop) / correlation) ** 2
        return Sample(_scored(labels, predictions), _scored(labels, np.where(lost, 0.0, predictions)))

    return draw


def questions(paragraphs: int, changed: float, alike: float) -> Population:
    """SQuAD: one to nine questions per paragraph; the answers of a paragraph change together.

    Args:
        paragraphs: paragraphs per sample.
        changed: chance that an answer gets worse or better.
        alike: correlation, between questions of a paragraph, of the event that the answer changed (0 to 1).
    """
    values, shares = np.array([0.0, 50.0, 100.0]), np.array([0.1, 0.1, 0.8])
    mean = float(values @ shares)

    def together(chance: float, rng: np.random.Generator, size: int) -> np.ndarray:
        scale = 1 / alike - 1
        return rng.beta(chance * scale, (1 - chance) * scale, size=size) if chance > 0 else np.zeros(size)

    def draw(true_drop: float, rng: np.random.Generator) -> Sample:
        # A share w becomes 0, a share b of the rest 100; w + b = changed; the drop is the mean change.
        worse = optimize.brentq(lambda w: w * mean - (1 - w) * (changed - w) * (100 - mean) - true_drop, 0.0, changed)
        paragraph_of = np.repeat(np.arange(paragraphs), 1 + rng.binomial(8, 0.5, size=paragraphs))
        count = len(paragraph_of)
        before = rng.choice(values, size=count, p=shares)
        falls = rng.random(count) < together(worse, rng, paragraphs)[paragraph_of]
        rises = rng.random(count) < together(changed - worse, rng, paragraphs)[paragraph_of]
        after = np.where(falls, 0.0, np.where(rises, 100.0, before))
        one, other = (
            [{"id": number, "prediction": str(value), "f1": float(value)} for number, value in enumerate(column)]
            for column in (before, after)
        )
        return Sample(one, other, clusters=[str(paragraph) for paragraph in paragraph_of])

    return draw


def _scored(labels: np.ndarray, predictions: np.ndarray) -> Rows:
    return [
        {"id": number, "label": float(label), "prediction": float(prediction)}
        for number, (label, prediction) in enumerate(zip(labels, predictions, strict=True))
    ]
