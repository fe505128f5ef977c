# SPDX-License-Identifier: Apache-2.0
"""Dynamic INT8 by ONNX Runtime's quantizer: int8 weights in the file, activation scales from each batch."""

import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass
from onnxruntime.quantization import QuantType
from onnxruntime.quantization import quantize_dynamic as ort_quantize_dynamic

from sparse_deploy.architectures import without_head
from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.errors import QuantizationError, one_line
from sparse_deploy.graph.model_file import load_onnx
from sparse_deploy.graph.weights import OnnxWeight, Orientation, read_weights, zero_masks
from sparse_deploy.sparsity.mask import assert_zeros_kept
from sparse_deploy.sparsity.weight_grid import GRIDS, WeightGrid


def quantize_dynamic(fp32: Path, settings: QuantizationSection, keep: Collection[str] = ()) -> ir.Model:
    """Make a dynamic INT8 version of an FP32 ONNX file.

    Weights become symmetric int8 per output channel with zero point 0, named ``<parameter>_quantized``. As in static
    mode only layers that are applied to each token are quantized: in the exported graph these are the MatMul nodes with
    a stored weight, while pooler and head are Gemm nodes. A head that is a MatMul stays FP32 as well.

    Args:
        fp32: model whose weights feed MatMul directly (see :mod:`sparse_deploy.graph.transpose_weights`).
        settings: ``exclude`` and ``target_cpu`` (not ``auto``).
        keep: additional weights that stay FP32.

    Raises:
        QuantizationError: nothing was quantized, or a weight is not int8 with zero point 0.
        SparsityLostError: a zero weight is no longer zero.
    """
    model = load_onnx(fp32)
    # ONNX Runtime's quantizer identifies nodes by name, and the exporter's names may be empty or duplicate.
    NameFixPass()(model)
    required = zero_masks(model)
    chosen = _nodes_to_quantize(model, set(quantizable_weights(model, settings.exclude)) - set(keep))
    if not chosen:
        raise QuantizationError(
            f"{fp32}: expected MatMul nodes with stored weights, found none to quantize; export again, or shorten "
            f"quantization.exclude"
        )
    with tempfile.TemporaryDirectory(prefix="sparse-deploy-") as folder, _quiet():
        target = Path(folder, "int8.onnx")
        try:
            ort_quantize_dynamic(
                _without_weight_shapes(model),
                target,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=settings.target_cpu == "avx2",  # -64..64
                weight_type=QuantType.QInt8,
                nodes_to_quantize=chosen,
                extra_options={
                    "WeightSymmetric": True,
                    "MatMulConstBOnly": True,
                    # Type of tensors after a node that onnx can't infer, such as ONNX Runtime's fused operators.
                    "DefaultTensorType": onnx.TensorProto.FLOAT,
                },
            )
        except (ValueError, RuntimeError, TypeError, KeyError, NotImplementedError) as error:
            reason = one_line(error)
            raise QuantizationError(
                f"{fp32}: ONNX Runtime's quantizer failed: {reason}. Name the layer in quantization.exclude, or use "
                f"quantization.mode: static."
            ) from error
        quantized = load_onnx(target)
    _check_symmetric(read_weights(quantized))
    grid = GRIDS[settings.target_cpu]
    if grid.neighbours:
        _put_on_grid(quantized, read_weights(model), grid)
    assert_zeros_kept("dynamic INT8", required, zero_masks(quantized))
    return quantized


def quantizable_weights(model: ir.Model, exclude: Sequence[str] = ()) -> list[str]:
    """Names of the weights that dynamic INT8 quantizes, in graph order."""
    found = read_weights(model)
    quantizable = without_head(found, [weight.shape for weight in found])
    weights = {w.initializer: w.name for w in quantizable if not any(part in w.name for part in exclude)}
    multiplied = (value for node in model.graph if node.op_type == "MatMul" for value in node.inputs)
    return [weights[str(value.name)] for value in multiplied if value is not None and value.name in weights]


def _nodes_to_quantize(model: ir.Model, names: Collection[str]) -> list[str]:
    initializers = {weight.initializer for weight in read_weights(model) if weight.name in names}
    return [
        node.name or ""
        for node in model.graph
        if node.op_type == "MatMul" and any(value is not None and value.name in initializers for value in node.inputs)
    ]


def _without_weight_shapes(model: ir.Model) -> onnx.ModelProto:
    # The quantizer first converts each Gemm to a MatMul and transposes its weight; a recorded shape of the weight is
    # then wrong, and shape inference fails.
    proto = ir.to_proto(model)
    kept = [info for info in proto.graph.value_info if info.name not in model.graph.initializers]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    return proto


def _put_on_grid(quantized: ir.Model, fp32: Sequence[OnnxWeight], grid: WeightGrid) -> None:
    """Round the weights again: ONNX Runtime's quantizer uses the largest weight of a channel, without neighbours.

    Raises:
        QuantizationError: a weight does not have the quantizer's form.
    """
    floats = {weight.name: weight for weight in fp32}
    for weight in read_weights(quantized):
        if not weight.quantized:
            continue
        scale = quantized.graph.initializers.get(f"{weight.name}_scale")
        original = floats.get(weight.name)
        if scale is None or original is None or original.values.shape != weight.values.shape:
            raise QuantizationError(
                f"{weight.name}: ONNX Runtime's quantizer gave the weight an unknown form; report it"
            )
        turned = original.orientation is not Orientation.OUT_IN
        values = original.values.T if turned else original.values
        steps = grid.scale(values).astype(np.float32)
        steps = np.where(steps == 0, np.float32(1), steps)
        integers = np.clip(np.rint(values / steps[:, None]), grid.low, grid.high).astype(np.int8)
        stored = quantized.graph.initializers[weight.initializer]
        stored.const_value = ir.tensor(np.ascontiguousarray(integers.T if turned else integers), name=stored.name)
        scale.const_value = ir.tensor(steps, name=scale.name)


def _check_symmetric(weights: list[OnnxWeight]) -> None:
    for weight in weights:
        if not weight.quantized:
            continue
        if weight.values.dtype.name != "int8" or (weight.zero_point is not None and weight.zero_point.any()):
            raise QuantizationError(
                f"{weight.name}: expected int8 with zero point 0, found {weight.values.dtype.name} with another zero "
                f"point; exclude the layer with quantization.exclude"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantizer's advice to run shape inference first, which these graphs do not need."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
