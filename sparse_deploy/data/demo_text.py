# SPDX-License-Identifier: Apache-2.0
"""The embedded demo: labelled customer reviews, generated from a seed, so that the demo runs without a download.

Training and validation differ in domains, sentence patterns, connectives and 40 % of the adjectives, so the validation
accuracy shows how well an encoder generalizes. Because of negation and contrast, single words do not determine the
label, which follows the meaning of the last clause.
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

from sparse_deploy.data.demo_words import TRAIN, VALIDATION, Domain, Lexicon, Words

T = TypeVar("T")

DEMO_SIZES = {"train": 4000, "validation": 800}
# Paraphrases with their weights in the draw.
_WEIGHTS = {"plain": 25, "negated": 9, "surprised": 3, "contrast": 13, "agreement": 40, "verdict": 10}
_SEEDS = {"train": 20240607, "validation": 20240608}


@lru_cache
def _sentences(split: str) -> tuple[tuple[str, int], ...]:
    writer = _Writer(TRAIN if split == "train" else VALIDATION, _SEEDS[split])
    seen: set[str] = set()
    rows: list[tuple[str, int]] = []
    while len(rows) < DEMO_SIZES[split]:
        label = len(rows) % 2
        sentence = writer.review(label)
        if sentence not in seen:
            seen.add(sentence)
            rows.append((sentence, label))
    writer.shuffle(rows)
    return tuple(rows)


def demo_rows(split: str) -> list[dict[str, Any]]:
    """The embedded text, equal in every call and on every machine.

    Args:
        split: ``train`` (4,000 rows) or ``validation`` (800 rows).

    Returns:
        Rows with ``sentence`` and ``label`` (0 negative, 1 positive), half of each, no sentence twice.

    Raises:
        KeyError: unknown split.
    """
    if split not in DEMO_SIZES:
        raise KeyError(split)
    return [{"sentence": sentence, "label": label} for sentence, label in _sentences(split)]


def made_texts(count: int, seed: int) -> list[tuple[str]]:
    """Texts of one to some hundred words from the demo's sentences, for models without any text.

    Args:
        count: number of texts.
        seed: seed of lengths and order.
    """
    rng = random.Random(seed)  # noqa: S311 - not a secret
    sentences = [sentence for sentence, _ in _sentences("train")]
    return [(" ".join(rng.choices(sentences, k=2 ** rng.randrange(6))),) for _ in range(count)]


class _Writer:
    """Composes reviews from one lexicon and one stream of random numbers."""

    def __init__(self, lexicon: Lexicon, seed: int) -> None:
        self.lexicon = lexicon
        self._random = random.Random(seed)  # noqa: S311 - text, not secrets

    def review(self, label: int) -> str:
        """A review with this label: an optional neutral opener, the opinion, an optional verdict."""
        domain = self.lexicon.domains[self._below(len(self.lexicon.domains))]
        form = self._weighted()
        parts = [self._opinion(form, domain, label)]
        if self._chance(0.35):
            parts.insert(0, self._pick(self.lexicon.openers).replace("{t}", self._pick(domain.things)))
        if form in ("plain", "agreement") and self._chance(0.4):
            parts.append(self._clause("plain", self._aspect(domain), label))
        if form not in ("verdict", "contrast") and self._chance(0.25):
            parts.append(self._verdict(label, said=" ".join(parts)))
        return " ".join(_as_sentence(part) for part in parts)

    def shuffle(self, rows: list[tuple[str, int]]) -> None:
        """Fisher-Yates in place; only ``random()`` is guaranteed to be stable between Python versions."""
        for i in range(len(rows) - 1, 0, -1):
            j = self._below(i + 1)
            rows[i], rows[j] = rows[j], rows[i]

    def _opinion(self, form: str, domain: Domain, label: int) -> str:
        if form == "verdict":
            return self._verdict(label)
        if form == "contrast":
            return self._joined(self.lexicon.contrasts, domain, 1 - label, label, negated=0.15)
        if form == "agreement":
            return self._joined(self.lexicon.agreements, domain, label, label)
        return self._clause(form, self._aspect(domain), label)

    def _joined(self, patterns: Words, domain: Domain, first: int, last: int, negated: float = 0.0) -> str:
        aspect = self._aspect(domain)
        opening = self._clause("negated" if self._chance(negated) else "plain", aspect, first)
        if self._chance(0.25):
            closing = self._verdict(last)
        else:
            other = self._aspect(domain, but=aspect)
            closing = self._clause("negated" if self._chance(negated) else "plain", other, last)
        return self._pick(patterns).format(x=opening, y=closing)

    def _clause(self, form: str, aspect: tuple[str, str], label: int) -> str:
        kind, name = aspect
        adjectives = self.lexicon.adjectives[kind if self._chance(0.5) else "any"]
        said, opposite = adjectives.negative, adjectives.positive
        if label:
            said, opposite = opposite, said
        patterns: Words = getattr(self.lexicon, form)
        return self._pick(patterns).format(
            a=name,
            p=self._pick(said),
            n=self._pick(opposite),
            i=f"{self._pick(self.lexicon.intensifiers)} " if self._chance(0.5) else "",
        )

    def _aspect(self, domain: Domain, but: tuple[str, str] | None = None) -> tuple[str, str]:
        """A kind of aspect and one aspect of it, other than ``but``."""
        aspects = [(kind, name) for kind, names in domain.aspects.items() for name in names]
        return self._pick([aspect for aspect in aspects if aspect != but])

    def _verdict(self, label: int, said: str = "") -> str:
        """A whole-review judgement, other than those in the text before it."""
        verdicts = self.lexicon.praise if label else self.lexicon.blame
        return self._pick([verdict for verdict in verdicts if verdict not in said])

    def _weighted(self) -> str:
        mark = self._below(sum(_WEIGHTS.values()))
        for form, weight in _WEIGHTS.items():
            mark -= weight
            if mark < 0:
                return form
        raise AssertionError("the weights cover every mark")

    def _pick(self, choices: Sequence[T]) -> T:
        return choices[self._below(len(choices))]

    def _below(self, bound: int) -> int:
        return int(self._random.random() * bound)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share


def _as_sentence(text: str) -> str:
    words = text.split(" ")
    for i, word in enumerate(words[:-1]):
        if word == "a" and words[i + 1][0] in "aeiou":
            words[i] = "an"
    text = " ".join(words)
    return f"{text[0].upper()}{text[1:]}."
