# SPDX-License-Identifier: Apache-2.0
"""ONNX models of one sparse operator with random weights, for the tests of the runtimes and passes."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sparse_deploy.sparsity.packing import Encoding, encode

DOMAIN = "sparse_deploy"
LINEARS = ("query", "key", "value", "attention_output", "intermediate", "output")


def sparse_weight(n: int, k: int, *, zeros: float = 0.7, seed: int = 0) -> np.ndarray:
    """An int8 ``[n, k]`` matrix with scattered zeros."""
    random = np.random.default_rng(seed)
    values = random.integers(1, 128, (n, k)) * random.choice((-1, 1), (n, k))
    return np.where(random.random((n, k)) < zeros, 0, values).astype(np.int8)


def linear_constants(
    n: int, k: int, *, seed: int = 0, encoding: Encoding | None = Encoding.ELEMENT, static: bool = False
) -> dict[str, np.ndarray]:
    """The constants of a SparseLinear, by name and in the order of its inputs."""
    random = np.random.default_rng(seed)
    constants = {
        "weight": encode(sparse_weight(n, k, seed=seed), encoding),
        "scale": random.uniform(0.5, 1.5, n).astype(np.float32) / np.float32(40 * np.sqrt(k)),
        "bias": random.normal(0, 0.5, n).astype(np.float32),
    }
    if static:
        constants |= {"x_scale": np.array([0.03], np.float32), "x_zero_point": np.array([120], np.uint8)}
    return constants


def layer_constants(hidden: int, intermediate: int, *, seed: int = 0, static: bool = False) -> dict[str, np.ndarray]:
    """The constants of a SparseEncoderLayer, by name and in the order of its inputs."""
    random = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {}
    for index, name in enumerate(LINEARS):
        shape = {"intermediate": (intermediate, hidden), "output": (hidden, intermediate)}.get(name, (hidden, hidden))
        parts = linear_constants(*shape, seed=seed + index)
        constants |= {f"{name}_{part}": value for part, value in parts.items()}
    for norm in ("attention", "output"):
        constants[f"{norm}_gamma"] = random.uniform(0.8, 1.2, hidden).astype(np.float32)
        constants[f"{norm}_beta"] = random.normal(0, 0.1, hidden).astype(np.float32)
    if static:
        constants["x_scale"] = np.array([0.04, 0.02, 0.04, 0.03], np.float32)
        constants["x_zero_point"] = np.array([128, 120, 130, 60], np.uint8)
    return constants


def linear_model(
    constants: dict[str, np.ndarray], *, dims: Any = ("batch", "sequence"), **attributes: Any
) -> onnx.ModelProto:
    """X ``[*dims, K]`` → SparseLinear → Y."""
    columns = int(constants["weight"][12:16].view("<u4")[0]) if constants["weight"].size >= 16 else None
    node = helper.make_node("SparseLinear", ["X", *constants], ["Y"], name="dense_1", domain=DOMAIN, **attributes)
    return _model([node], [("X", TensorProto.FLOAT, (*dims, columns))], constants)


def layer_model(
    layers: list[dict[str, np.ndarray]],
    *,
    hidden: int,
    heads: int,
    add_input: bool = False,
    rows: list[dict[str, int]] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """X, mask → a sequence of encoder layers → Y; with ``add_input`` X is added to the result.

    ``rows`` are additional attributes of each layer, in operator version 2.
    """
    attributes = {"num_heads": heads, "epsilon": 1e-12, "activation": "gelu"} | attributes
    attributes = {name: value for name, value in attributes.items() if value is not None}
    nodes, initializers, flow = [], {}, "X"
    for index, constants in enumerate(layers):
        renamed = {f"layer{index}_{name}": value for name, value in constants.items()}
        result = f"h{index}" if add_input or index + 1 < len(layers) else "Y"
        nodes.append(
            helper.make_node(
                "SparseEncoderLayer",
                [flow, "mask", *renamed],
                [result],
                name=f"layer_{index}",
                domain=DOMAIN,
                **attributes,
                **({"operator_version": 2} | rows[index] if rows else {}),
            )
        )
        initializers |= renamed
        flow = result
    if add_input:
        nodes.append(helper.make_node("Add", [flow, "X"], ["Y"]))
    inputs = [
        ("X", TensorProto.FLOAT, ("batch", "sequence", hidden)),
        ("mask", TensorProto.INT64, ("batch", "sequence")),
    ]
    return _model(nodes, inputs, initializers, 2 if rows else 1)


def _model(
    nodes: list[onnx.NodeProto], inputs: list[tuple[str, int, Any]], constants: dict[str, np.ndarray], version: int = 1
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "sparse",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


# Three layers that exchange rows without padding; the last layer computes one token of each sequence.
STACK_ROWS = [
    {"unpadded_output": 1},
    {"unpadded_input": 1, "unpadded_output": 1},
    {"unpadded_input": 1, "output_tokens": 1},
]
