# SPDX-License-Identifier: Apache-2.0
"""Calibration batches: a seeded draw of real examples, without padding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.errors import QuantizationError

Batch = dict[str, NDArray[np.int64]]


def calibration_batches(features: Sequence[dict[str, NDArray[np.int64]]], settings: QuantizationSection) -> list[Batch]:
    """Draw calibration examples and make batches of equal length.

    Batches have no padding, because an observer can't distinguish it from text and its ranges would be wider. The
    longest example is always drawn and is a separate batch.

    Args:
        features: one example each: ``input_ids``, ``attention_mask`` and ``token_type_ids``, ``[tokens]``. Padding at
            the end (mask 0) is removed.
        settings: ``calibration_samples``, ``calibration_batch_size`` (an upper bound) and ``seed``.

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
    batches: list[Batch] = []
    for tokens in np.unique(lengths[drawn]):
        same = drawn[lengths[drawn] == tokens]
        for start in range(0, len(same), settings.calibration_batch_size):
            group = same[start : start + settings.calibration_batch_size]
            batches.append(_stack([features[index] for index in group], int(tokens)))
    return [*batches, _stack([features[longest]], int(lengths[longest]))]


def _stack(examples: list[dict[str, NDArray[np.int64]]], tokens: int) -> Batch:
    return {name: np.stack([example[name][:tokens] for example in examples]).astype(np.int64) for name in MODEL_INPUTS}
