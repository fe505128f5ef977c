# SPDX-License-Identifier: Apache-2.0
"""New constants in an ONNX graph."""

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike


def add_initializer(graph: ir.Graph, name: str, array: ArrayLike) -> ir.Value:
    """Store an array in a graph.

    Args:
        graph: a graph without another initializer of this name.
        name: name of the new initializer.
        array: the array, stored with its type and shape.

    Returns:
        The value that nodes read.
    """
    stored = np.asarray(array, order="C")
    tensor = ir.tensor(stored, name=name)
    value = ir.Value(name=name, shape=ir.Shape(stored.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
