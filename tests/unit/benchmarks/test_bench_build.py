# SPDX-License-Identifier: Apache-2.0
"""A cell is built from nothing: every file of the baselines, by the code that builds the large ones."""

import numpy as np
import pytest
from harness import sparse_model
from harness.cells import Cell
from harness.models import DYNAMIC_FUSED, build
from harness.worker import Worker

CELL = Cell("tiny", "u70", 2, 16)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder-models") / "tiny-u70"
    build(CELL.model, CELL.pattern, folder)
    sparse_model.write(folder)
    return folder


def answer(rival, folder):
    worker = Worker(lambda: None)
    opened = worker.open(rival, str(folder), CELL.as_json(), 1)
    return opened, np.array(worker.answer()["outputs"][0])


def test_a_model_is_built_from_nothing_and_its_files_answer_alike(built):
    _, expected = answer("ort_fp32", built)
    _, ours = answer("ours", built)
    opened, rival = answer("ort_dynamic_int8", built)
    assert set(opened["trials_ms"]) == {"our export", "onnxruntime.transformers fusion"}
    size = np.linalg.norm(expected)
    assert np.linalg.norm(ours - expected) < 0.1 * size
    assert np.linalg.norm(rival - expected) < 0.1 * size


def test_the_fused_rival_has_its_attention_in_int8(built):
    import onnx

    kinds = [node.op_type for node in onnx.load(built / DYNAMIC_FUSED).graph.node]
    assert kinds.count("QAttention") == 2
    assert "Attention" not in kinds
