# SPDX-License-Identifier: Apache-2.0
"""Rewrites an exported model, FP32 or INT8 (QDQ), to ``model_sparse.onnx`` with sparse operators."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparse_deploy.graph.fold_constant_products import FoldConstantProducts
from sparse_deploy.graph.fuse_encoder_layers import FuseEncoderLayers
from sparse_deploy.graph.matching import Refusal
from sparse_deploy.graph.replace_linears import ReplaceLinears
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.trim_last_layer import TrimLastLayer
from sparse_deploy.graph.unpad_between_layers import UnpadBetweenLayers


@dataclass(frozen=True)
class SparseModel:
    """Result of the rewriting of a model.

    Attributes:
        model: the rewritten graph.
        layers: names of the encoder layers replaced by one operator.
        linears: weights of the new SparseLinear nodes.
        standard: nodes that were not replaced, with the reason.
    """

    model: ir.Model
    layers: tuple[str, ...]
    linears: tuple[str, ...]
    standard: tuple[Refusal, ...]


def to_sparse_model(model: ir.Model, *, static: bool = False, exclude: Sequence[str] = ()) -> SparseModel:
    """Rewrite a model in place.

    An FP32 weight becomes symmetric INT8 per output channel; the int8 weights and scales of a QDQ file are kept.
    Activations are quantized inside the operators, so the QDQ pairs around them are removed.

    Args:
        model: a model of this package's exporter, FP32 or static INT8 (QDQ).
        static: quantize activations with the file's calibrated scales, not per token.
        exclude: parameters whose name contains one of these texts are not changed.

    Raises:
        SparsityLostError: a zero weight is no longer zero.
    """
    layers = FuseEncoderLayers(static=static, exclude=exclude)
    linears = ReplaceLinears(static=static, exclude=exclude)
    rewritten = run_passes(model, layers, FoldConstantProducts(), linears, TrimLastLayer(), UnpadBetweenLayers())
    return SparseModel(rewritten, tuple(layers.fused), tuple(linears.replaced), (*layers.refused, *linears.refused))
