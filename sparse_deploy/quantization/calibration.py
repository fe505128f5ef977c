# SPDX-License-Identifier: Apache-2.0
"""Calibration batches: a seeded draw of real examples, padded as little as possible."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.errors import QuantizationError

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
Batch = dict[str, NDArray[np.int64]]


def calibration_batches(features: Sequence[dict[str, NDArray[np.int64]]], settings: QuantizationSection) -> list[Batch]:
    """Draw calibration examples and pad them into batches.

    Neighbours in length share a batch, so that observers see text rather than padding. The longest example of all is
    always drawn and makes a batch of its own.

    Args:
        features: one example each: ``input_ids``, ``attention_mask`` and ``token_type_ids``, ``[tokens]``.
            Padding at the end (mask 0) is cut off.
        settings: ``calibration_samples``, ``calibration_batch_size`` and ``seed``.

    Returns:
        int64 arrays ``[batch, tokens]`` by input name; the shortest batch first, the longest example last.

    Raises:
        QuantizationError: there are no examples.
    """
    if not features:
        raise QuantizationError("calibration: expected at least one training example, found none; check data and split")
    lengths = np.array([int(np.count_nonzero(feature["attention_mask"])) for feature in features])
    longest = int(lengths.argmax())
    others = np.delete(np.arange(len(features)), longest)
    count = min(settings.calibration_samples - 1, len(others))
    drawn = np.random.default_rng(settings.seed).choice(others, size=count, replace=False)
    drawn = drawn[np.argsort(lengths[drawn], kind="stable")]
    size = settings.calibration_batch_size
    groups = [drawn[start : start + size] for start in range(0, count, size)] + [np.array([longest])]
    return [_pad([features[index] for index in group], int(lengths[group].max())) for group in groups]


def _pad(examples: list[dict[str, NDArray[np.int64]]], tokens: int) -> Batch:
    batch = {name: np.zeros((len(examples), tokens), dtype=np.int64) for name in INPUT_NAMES}
    for row, example in enumerate(examples):
        for name in INPUT_NAMES:
            kept = example[name][:tokens]
            batch[name][row, : len(kept)] = kept
    return batch
