# SPDX-License-Identifier: Apache-2.0
"""Every family's tiny model with sparse operators answers as its dense file does, at several lengths."""

import numpy as np
import onnxruntime
import openvino
import pytest
from tiny_architectures import FAMILIES, POSITIONS, tiny_model

from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.export.exporter import ExportableModel, example_inputs, to_onnx
from sparse_deploy.graph.model_file import save_onnx
from sparse_deploy.graph.name_weights import NameWeights
from sparse_deploy.graph.sparse_model import to_sparse_model
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.transpose_weights import TransposeWeights
from sparse_deploy.graph.weights import read_weights
from sparse_deploy.kernels import openvino_extension
from sparse_deploy.runtimes import sparse_session

# XLM-R and CamemBERT are RoBERTa.
CHECKED = [name for name in FAMILIES if name not in ("xlm-roberta", "camembert")]

# Layers with a position bias, shared and per sequence; with rotary positions, a window and a gate.
IN_OPENVINO = ("mpnet", "deberta-v2", "modernbert")


def openvino_library():
    try:
        return openvino_extension.openvino_library()
    except RuntimeUnavailableError:
        return None


def compiled(path):
    core = openvino.Core()
    core.add_extension(str(openvino_library()))
    return core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def batch(rows, tokens):
    ids = np.random.default_rng(tokens).integers(4, 700, (rows, tokens))
    mask = np.ones_like(ids)
    for row in range(1, rows):
        mask[row, tokens - 3 * row :] = 0
    return {"input_ids": np.where(mask, ids, 0), "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("family", CHECKED)
def test_layers_are_matched_and_answer_alike(family, tmp_path):
    model = tiny_model(family)
    module = ExportableModel(model, ("logits",)).eval()
    graph = to_onnx(module, example_inputs(module.input_names), ("logits",), 20)
    run_passes(graph, NameWeights({k: v.numpy() for k, v in model.state_dict().items()}), TransposeWeights())
    save_onnx(graph, tmp_path / "dense.onnx")
    before = {weight.name: weight.zero_mask() for weight in read_weights(graph)}
    sparse = to_sparse_model(graph)
    save_onnx(sparse.model, tmp_path / "sparse.onnx")
    assert len(sparse.layers) == model.config.num_hidden_layers
    after = {weight.name: weight.zero_mask() for weight in read_weights(sparse.model)}
    assert before.keys() == after.keys(), "each parameter once, shared or not"
    assert all((after[name] | ~mask).all() for name, mask in before.items())
    dense = onnxruntime.InferenceSession(tmp_path / "dense.onnx", providers=["CPUExecutionProvider"])
    session = sparse_session(tmp_path / "sparse.onnx")
    in_openvino = compiled(tmp_path / "sparse.onnx") if family in IN_OPENVINO and openvino_library() else None
    names = [one.name for one in session.get_inputs()]
    assert names == list(module.input_names)
    for rows, tokens in ((1, 5), (3, 20), (1, POSITIONS), (2, 65)):
        inputs = {name: value for name, value in batch(rows, tokens).items() if name in names}
        (expected,), (found,) = dense.run(None, inputs), session.run(None, inputs)
        # Two layers of 8-bit activations and attention; a wrong bias or mask shows as 0.1 and more.
        assert np.abs(found - expected).max() < 0.02 * max(1.0, np.abs(expected).max()), (rows, tokens)
        if in_openvino is not None:
            np.testing.assert_allclose(in_openvino(inputs)["logits"], found, atol=1e-3)
