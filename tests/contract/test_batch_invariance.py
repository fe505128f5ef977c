# SPDX-License-Identifier: Apache-2.0
"""A sequence is answered alone as it is beside others, by every runtime that a server batches with."""

import numpy as np
import pytest

from sparse_deploy.data.batches import pad_batch
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.serving.choice import SERVED_RUNTIMES, is_batch_invariant

# Of logits between -2 and 2; what float sums in another order may differ by.
TOLERANCE = 1e-4
LENGTHS = (3, 7, 30, 12, 30, 5)
CELLS = [
    (name, precision)
    for name in SERVED_RUNTIMES
    for precision in get_runtime(name).files
    if name != "openvino-sparse"  # its file is not in this deployment, its operators are those of sparse
]


@pytest.mark.parametrize(("name", "precision"), CELLS)
def test_answers_do_not_depend_on_the_batch_unless_it_is_known(tiny_deployment, name, precision):
    session = get_runtime(name).open(tiny_deployment, precision, 1)
    random = np.random.default_rng(0)
    features = []
    for length in LENGTHS:
        ids = random.integers(5, 200, length)
        features.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    together = session.run(pad_batch(features))[0]
    alone = np.concatenate([session.run(pad_batch([feature]))[0] for feature in features])
    difference = np.abs(together - alone).max()
    assert (difference <= TOLERANCE) == is_batch_invariant(name, tiny_deployment, precision)
    assert is_batch_invariant(name, tiny_deployment, precision) == ((name, precision) != ("onnxruntime", "int8"))
