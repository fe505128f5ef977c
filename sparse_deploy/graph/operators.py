# SPDX-License-Identifier: Apache-2.0
"""The sparse operators in ONNX: domain, names, and inputs of their weights; see ``docs/sparse_operators.md``."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # readers of IR also use the tables, without onnx
    import onnx_ir as ir

DOMAIN = "sparse_deploy"
# Version of a node, unless set_version_2 sets 2.
VERSION = 1
SPARSE_LINEAR = "SparseLinear"
SPARSE_ENCODER_LAYER = "SparseEncoderLayer"

# Index of each packed weight; the next two inputs are its scale and bias.
PACKED_INPUTS = {SPARSE_LINEAR: (1,), SPARSE_ENCODER_LAYER: (2, 5, 8, 11, 14, 17)}
# Scale and zero point of the activations.
_STATIC = {SPARSE_LINEAR: (4, 5), SPARSE_ENCODER_LAYER: (24, 25)}
# Scales and zero points of weights and activations.
SCALE_INPUTS = {name: (*(index + 1 for index in PACKED_INPUTS[name]), *_STATIC[name]) for name in PACKED_INPUTS}


def is_sparse_operator(node: "ir.Node") -> bool:
    """Whether a node is a sparse operator."""
    return node.domain == DOMAIN and node.op_type in PACKED_INPUTS


def is_encoder_layer(node: "ir.Node") -> bool:
    """Whether a node is a SparseEncoderLayer."""
    return node.domain == DOMAIN and node.op_type == SPARSE_ENCODER_LAYER


def import_domain(model: "ir.Model") -> None:
    """Import the domain, in the version required by the nodes."""
    model.graph.opset_imports.setdefault(DOMAIN, VERSION)


def set_version_2(model: "ir.Model", node: "ir.Node", **attributes: int | float) -> None:
    """Set attributes of version 2 on a node; node and file then require version 2."""
    import onnx_ir as ir

    for name, value in (*attributes.items(), ("operator_version", 2)):
        node.attributes.add(ir.AttrFloat32(name, value) if isinstance(value, float) else ir.AttrInt64(name, value))
    node.version = 2
    model.graph.opset_imports[DOMAIN] = 2


def packed_inputs(node: "ir.Node") -> tuple[int, ...]:
    """Indices of the inputs with a weight in compact form; empty for other operators."""
    return PACKED_INPUTS[node.op_type] if is_sparse_operator(node) else ()


def scale_inputs(node: "ir.Node") -> tuple[int, ...]:
    """Indices of the inputs with scales and zero points, of weights and of activations."""
    return SCALE_INPUTS[node.op_type] if is_sparse_operator(node) else ()


def uses_sparse_operators(model: "ir.Model") -> bool:
    """Whether a model needs the operator library."""
    return any(is_sparse_operator(node) for node in model.graph)
