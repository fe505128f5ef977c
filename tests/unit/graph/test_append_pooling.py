# SPDX-License-Identifier: Apache-2.0
"""Pooling as nodes of a graph gives the vectors that the same pooling gives in PyTorch."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from sparse_deploy.data.tasks.pooling import Pooling, PoolingMode
from sparse_deploy.graph.append_pooling import AppendPooling


def encoder(*outputs: str) -> ir.Model:
    """Vectors of tokens that are twice the input."""
    sizes = ["batch", "tokens", 4]
    graph = helper.make_graph(
        [helper.make_node("Add", ["hidden", "hidden"], [name]) for name in outputs],
        "encoder",
        [
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT, sizes),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, sizes[:2]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return ir.from_proto(model)


@pytest.mark.parametrize("mode", PoolingMode)
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_those_of_pytorch(mode, normalize):
    model = encoder("last_hidden_state")
    AppendPooling(first_token=mode is PoolingMode.CLS, normalize=normalize)(model)
    assert [value.name for value in model.graph.outputs] == ["sentence_embedding"]
    hidden = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"hidden": hidden, "attention_mask": mask})
    expected = Pooling(mode, normalize)(torch.from_numpy(2 * hidden), torch.from_numpy(mask))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_model_that_pools_by_itself_stays_as_it_is():
    model = encoder("token_embeddings", "sentence_embedding")
    assert not AppendPooling(first_token=False, normalize=True)(model).modified
    assert len(model.graph.outputs) == 2
