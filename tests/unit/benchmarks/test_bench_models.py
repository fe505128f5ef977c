# SPDX-License-Identifier: Apache-2.0
"""Models have the zeros in their name, and one key is one content."""

import numpy as np
import pytest
from harness.cells import parse_pattern
from harness.micro import random_weight
from harness.models import cache_key, digest, random_inputs

from sparse_deploy.sparsity.pattern import PatternKind, detect_pattern, holds_pattern


@pytest.mark.parametrize("pattern", ["u70", "u90", "12", "24", "b80_4x1", "b80_1x4"])
def test_random_weights_have_exactly_the_pattern(pattern):
    weight = random_weight(pattern, 96, 128)
    wanted, share = parse_pattern(pattern)
    zeros = weight == 0
    assert weight.dtype == np.int8
    assert weight.min() >= -127
    assert zeros.mean() == pytest.approx(share, abs=0.005)
    assert holds_pattern(zeros, wanted)
    if wanted.kind is not PatternKind.N_M:
        assert detect_pattern(zeros) == wanted


def test_a_dense_weight_has_no_zeros():
    assert (random_weight("dense", 64, 64) != 0).all()


def test_the_key_tells_models_and_patterns_apart():
    keys = [digest(cache_key(model, pattern)) for model in ("base", "minilm") for pattern in ("u70", "12")]
    assert len(set(keys)) == len(keys)
    assert digest(cache_key("base", "u70")) == keys[0]


def test_inputs_are_full_rows_of_words():
    inputs = random_inputs(3, 17)
    assert all(array.shape == (3, 17) and array.dtype == np.int64 for array in inputs.values())
    assert inputs["attention_mask"].all()
    assert len(np.unique(inputs["input_ids"])) > 40
