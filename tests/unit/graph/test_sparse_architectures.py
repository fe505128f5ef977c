# SPDX-License-Identifier: Apache-2.0
"""Every family's tiny model with sparse operators answers as its dense file does, at several lengths."""

import numpy as np
import onnxruntime
import pytest
from tiny_architectures import FAMILIES, POSITIONS, tiny_model

from sparse_deploy.export.exporter import ExportableModel, example_inputs, to_onnx
from sparse_deploy.graph.model_file import save_onnx
from sparse_deploy.graph.name_weights import NameWeights
from sparse_deploy.graph.sparse_model import to_sparse_model
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.transpose_weights import TransposeWeights
from sparse_deploy.graph.weights import read_weights
from sparse_deploy.runtimes import sparse_session

# What has no operator for its layers, and why; XLM-R and CamemBERT are RoBERTa.
REASONS = {"modernbert": "expected LayerNormalization behind the residual Add"}
CHECKED = [name for name in FAMILIES if name not in ("xlm-roberta", "camembert")]


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
    if family in REASONS:
        assert not sparse.layers
        assert any(REASONS[family] in refusal.reason for refusal in sparse.standard)
        assert len(sparse.linears) == 4 * model.config.num_hidden_layers
    else:
        assert len(sparse.layers) == 2
    after = {weight.name: weight.zero_mask() for weight in read_weights(sparse.model)}
    assert before.keys() == after.keys(), "each parameter once, shared or not"
    assert all((after[name] | ~mask).all() for name, mask in before.items())
    dense = onnxruntime.InferenceSession(tmp_path / "dense.onnx", providers=["CPUExecutionProvider"])
    session = sparse_session(tmp_path / "sparse.onnx")
    names = [one.name for one in session.get_inputs()]
    assert names == list(module.input_names)
    for rows, tokens in ((1, 5), (3, 20), (1, POSITIONS), (2, 65)):
        inputs = {name: value for name, value in batch(rows, tokens).items() if name in names}
        (expected,), (found,) = dense.run(None, inputs), session.run(None, inputs)
        # Two layers of 8-bit activations and attention; a wrong bias or mask shows as 0.1 and more.
        assert np.abs(found - expected).max() < 0.02 * max(1.0, np.abs(expected).max()), (rows, tokens)
