# SPDX-License-Identifier: Apache-2.0
"""Every runtime that a server batches with gives a sequence the same result alone and in a batch."""

import shutil

import numpy as np
import pytest
from openvino_extension import needs_extension
from tiny_deployment import make_sparse_ir

from sparse_deploy.data.batches import pad_batch
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.serving.choice import SERVED_RUNTIMES, is_batch_invariant

# For logits between -2 and 2; the difference of float sums in another order.
TOLERANCE = 1e-4
LENGTHS = (3, 7, 30, 12, 30, 5)
CELLS = [
    pytest.param(name, precision, marks=needs_extension if name == "openvino-sparse" else ())
    for name in SERVED_RUNTIMES
    for precision in get_runtime(name).files
]


@pytest.fixture(scope="module")
def deployment(tiny_deployment, tmp_path_factory):
    """The tiny deployment with the one file that it lacks."""
    folder = tmp_path_factory.mktemp("all") / "deployment"
    shutil.copytree(tiny_deployment, folder)
    make_sparse_ir(folder)
    return folder


@pytest.mark.parametrize(("name", "precision"), CELLS)
def test_answers_do_not_depend_on_the_batch_unless_it_is_known(deployment, name, precision):
    session = get_runtime(name).open(deployment, precision, 1)
    random = np.random.default_rng(0)
    features = []
    for length in LENGTHS:
        ids = random.integers(5, 200, length)
        features.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    together = session.run(pad_batch(features))[0]
    alone = np.concatenate([session.run(pad_batch([feature]))[0] for feature in features])
    difference = np.abs(together - alone).max()
    assert (difference <= TOLERANCE) == is_batch_invariant(name, deployment, precision)
    assert is_batch_invariant(name, deployment, precision) == ((name, precision) != ("onnxruntime", "int8"))
