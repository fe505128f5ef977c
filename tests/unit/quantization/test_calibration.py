# SPDX-License-Identifier: Apache-2.0
"""Calibration batches: seeded, unpadded, and with the longest example."""

import numpy as np
import pytest

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.errors import QuantizationError
from sparse_deploy.quantization.calibration import calibration_batches


def rows(batches):
    return sorted(tuple(row) for batch in batches for row in batch["input_ids"].tolist())


def test_no_batch_holds_padding(features):
    batches = calibration_batches(features, QuantizationSection(calibration_batch_size=2))
    assert all(batch["attention_mask"].all() for batch in batches)
    assert max(len(batch["input_ids"]) for batch in batches) == 2
    assert rows(batches) == sorted(tuple(feature["input_ids"].tolist()) for feature in features)


def test_longest_example_is_always_drawn_and_stands_alone(features):
    for seed in range(5):
        batches = calibration_batches(features, QuantizationSection(calibration_samples=3, seed=seed))
        assert sum(len(batch["input_ids"]) for batch in batches) == 3
        assert batches[-1]["input_ids"].shape == (1, 31)


def test_seed_decides_the_draw(features):
    draws = [
        rows(calibration_batches(features, QuantizationSection(calibration_samples=5, seed=seed))) for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_padding_of_the_source_is_cut(features):
    padded = [{name: np.pad(values, (0, 9)) for name, values in feature.items()} for feature in features]
    settings = QuantizationSection()
    assert rows(calibration_batches(padded, settings)) == rows(calibration_batches(features, settings))


def test_batches_are_int64(features):
    narrow = [{name: values.astype(np.int32) for name, values in feature.items()} for feature in features]
    assert {v.dtype for b in calibration_batches(narrow, QuantizationSection()) for v in b.values()} == {
        np.dtype("int64")
    }


def test_nothing_to_draw_from():
    with pytest.raises(QuantizationError, match="at least one training example"):
        calibration_batches([], QuantizationSection())
