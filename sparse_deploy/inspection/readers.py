# SPDX-License-Identifier: Apache-2.0
"""Zero masks and data types of one model file of any format, with PyTorch's parameter names and shapes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_deploy import checkpoint
from sparse_deploy.runtimes.sparse_decompression import INT8_ACTIVATIONS, TensorFacts
from sparse_deploy.sparsity.integers import LARGEST_IN_7_BITS
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.sparsity.statistics import prunable_names
from sparse_deploy.sparsity.weight_grid import saturates
from sparse_deploy.untrusted.openvino_ir import holds_sparse_operators
from sparse_deploy.untrusted.safetensors_file import read_header

if TYPE_CHECKING:
    import onnx_ir

FLOAT = "f32"
SPARSE_OPERATOR_ACTIVATIONS = "u8"
ONNX_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm")
# Nodes between a quantized activation and its product that do not change values.
ONNX_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
# Nodes between a stored weight and its product.
ONNX_WEIGHT_STEPS = ("DequantizeLinear", "Transpose", "Cast", "CastLike", "Identity", "QuantizeLinear", "Clip")
_BYTES = ("i8", "u8")


@dataclass(frozen=True)
class ModelContent:
    """The content of a model file.

    Attributes:
        masks: zero masks of the prunable tensors, ``[out, in]``, by parameter name, in the order of the layers.
        facts: data types and zero shares of the same tensors.
        left_out: matrices on the exclusion list.
        parameters: number of all parameters.
        bytes: size of the weight files.
        weight_bits: bits in use of the prunable tensors' 8-bit integers: 8, or 7 if none is further than 64 from its
            zero point; None without such integers.
        saturates_without_vnni: whether a runtime that multiplies them in INT8 saturates on CPUs without VNNI
            (``docs/int8.md``); the sparse operators do not.
        sparse_operators: whether only a runtime with the sparse operators can open it.
        not_understood: products with a stored weight that could not be read.
    """

    masks: dict[str, BoolArray]
    facts: tuple[TensorFacts, ...]
    left_out: tuple[str, ...]
    parameters: int
    bytes: int
    weight_bits: int | None = None
    saturates_without_vnni: bool = False
    sparse_operators: bool = False
    not_understood: tuple[str, ...] = ()


def read_checkpoint(folder: Path, exclude: tuple[str, ...]) -> ModelContent:
    """Read a safetensors checkpoint.

    Raises:
        CheckpointError: see :func:`sparse_deploy.checkpoint.weight_files`.
    """
    shards = checkpoint.weight_files(folder)
    types = {name: entry["dtype"] for shard in shards for name, entry in read_header(shard).items()}
    every = checkpoint.zero_masks(folder, ())
    return _content(
        every,
        {name: (types[name].lower(), FLOAT) for name in every},
        exclude,
        parameters=checkpoint.parameter_count(folder),
        paths=shards,
    )


def read_onnx(path: Path, exclude: tuple[str, ...]) -> ModelContent:
    """Read an ONNX file; weights are ``[out, in]``, zeros equal the zero point, shared weights count once.

    Raises:
        ConfigError: no such file.
        ArtifactError: not a readable ONNX file.
    """
    from sparse_deploy.graph.model_file import load_onnx
    from sparse_deploy.graph.operators import uses_sparse_operators
    from sparse_deploy.graph.weights import constants, parameter_count, products_not_understood, read_weights

    model = load_onnx(path)
    weights = read_weights(model)
    stored = {value.name: value for value, _ in constants(model)}
    types = {w.name: (_short_type(w.values.dtype.name), _onnx_activation(stored[w.initializer])) for w in weights}
    masks = {w.name: w.zero_mask() for w in weights}
    content = _content(masks, types, exclude, parameters=parameter_count(model), paths=[path], products=True)
    bits = _weight_bits(content, {w.name: w.largest() for w in weights})
    int8 = [w for w in weights if w.quantized and _multiplied_in_int8(stored[w.initializer])]
    return replace(
        content,
        weight_bits=bits,
        saturates_without_vnni=any(saturates(w.largest_neighbour_sum()) for w in int8),
        sparse_operators=uses_sparse_operators(model),
        not_understood=tuple(products_not_understood(model)),
    )


def read_openvino(path: Path, exclude: tuple[str, ...]) -> ModelContent:
    """Read an OpenVINO IR.

    Raises:
        ConfigError: no such file.
        ArtifactError: not a readable IR.
        RuntimeUnavailableError: it has sparse operators, and their extension is not built.
    """
    from sparse_deploy.graph.openvino_ir import parameter_count, products_not_understood, read_weights_of_ir

    weights = read_weights_of_ir(path)
    types = {weight.name: (weight.stored_type, weight.activation_type) for weight in weights}
    masks = {weight.name: weight.zeros for weight in weights}
    files = [path, path.with_suffix(".bin")]
    content = _content(masks, types, exclude, parameters=parameter_count(path), paths=files, products=True)
    bits = _weight_bits(content, {weight.name: weight.largest() for weight in weights})
    sparse = holds_sparse_operators(path)
    int8 = [weight for weight in weights if weight.activation_type in INT8_ACTIVATIONS and not sparse]
    return replace(
        content,
        weight_bits=bits,
        saturates_without_vnni=any(saturates(weight.largest_neighbour_sum()) for weight in int8),
        sparse_operators=sparse,
        not_understood=tuple(products_not_understood(path)),
    )


def _content(
    every: dict[str, BoolArray],
    types: dict[str, tuple[str, str]],
    exclude: tuple[str, ...],
    *,
    parameters: int,
    paths: list[Path],
    products: bool = False,
) -> ModelContent:
    """The prunable matrices: those of matrix products with any name, others by a parameter's name."""
    prunable = [name for name in every if not any(part in name for part in exclude)]
    names = sorted(prunable if products else prunable_names(every, exclude), key=checkpoint.natural_order)
    masks = {name: every[name] for name in names}
    return ModelContent(
        masks=masks,
        facts=tuple(
            TensorFacts(
                name=name,
                shape=(mask.shape[0], mask.shape[1]),
                zero_share=float(mask.mean()) if mask.size else 0.0,
                weight_type=types[name][0],
                activation_type=types[name][1],
            )
            for name, mask in masks.items()
        ),
        left_out=tuple(sorted(set(every) - set(names), key=checkpoint.natural_order)),
        parameters=parameters,
        bytes=sum(path.stat().st_size for path in paths),
    )


def _weight_bits(content: ModelContent, largest: Mapping[str, int]) -> int | None:
    found = [largest[fact.name] for fact in content.facts if fact.weight_type in _BYTES]
    return (7 if max(found) <= LARGEST_IN_7_BITS else 8) if found else None


def _short_type(numpy_name: str) -> str:
    """``int8`` to ``i8``, as OpenVINO and safetensors write it."""
    return numpy_name.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i")


def _multiplied_in_int8(weight: "onnx_ir.Value") -> bool:
    """Whether ONNX Runtime itself multiplies stored integers with integers: QDQ on both sides, or MatMulInteger."""
    from sparse_deploy.graph.operators import packed_inputs

    if any(index in packed_inputs(node) for node, index in weight.uses()):
        return False
    return _onnx_activation(weight) != FLOAT or not any(_products(weight))


def _onnx_activation(weight: "onnx_ir.Value") -> str:
    """Type in which OpenVINO would multiply this weight's activations: see :class:`TensorFacts`.

    Only QDQ with a stored scale counts. OpenVINO 2026.4 runs MatMulInteger after DynamicQuantizeLinear as an FP32
    product (seen in its execution graph). The sparse operators quantize to u8 inside.
    """
    from sparse_deploy.graph.operators import packed_inputs

    if any(index in packed_inputs(node) for node, index in weight.uses()):
        return SPARSE_OPERATOR_ACTIVATIONS
    for product, index in _products(weight):
        value = product.inputs[1 - index]
        producer = value.producer() if value is not None else None
        while producer is not None and producer.op_type in ONNX_MOVES:
            value = producer.inputs[0]
            producer = value.producer() if value is not None else None
        if producer is None or producer.op_type != "DequantizeLinear" or producer.inputs[0] is None:
            return FLOAT
        quantized = producer.inputs[0].dtype or _zero_point_type(producer)
        return _short_type(quantized.name.lower()) if quantized is not None else FLOAT
    return FLOAT


def _products(weight: "onnx_ir.Value") -> "Iterator[tuple[onnx_ir.Node, int]]":
    """The matrix products that use a stored weight, with the index of its input."""
    for node, index in weight.uses():
        if node.op_type in ONNX_PRODUCTS and index < 2:
            yield node, index
        elif node.op_type in ONNX_WEIGHT_STEPS and index == 0:
            yield from _products(node.outputs[0])


def _zero_point_type(dequantize: "onnx_ir.Node") -> "onnx_ir.DataType | None":
    """Type of a quantized value from its zero point, for files without value_info."""
    zero_point = dequantize.inputs[2] if len(dequantize.inputs) > 2 else None
    if zero_point is None:
        return None
    if zero_point.dtype is not None:
        return zero_point.dtype
    return zero_point.const_value.dtype if zero_point.const_value is not None else None
