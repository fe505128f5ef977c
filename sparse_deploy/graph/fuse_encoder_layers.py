# SPDX-License-Identifier: Apache-2.0
"""Pass: one SparseEncoderLayer node for each matching encoder layer."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparse_deploy.graph import operators
from sparse_deploy.graph.attention import ANCHORS
from sparse_deploy.graph.encoder_layers import EncoderLayer, EncoderLayerMatcher
from sparse_deploy.graph.linears import Linear, StaticScale, find_linears
from sparse_deploy.graph.matching import NoMatchError, Refusal, ancestors
from sparse_deploy.graph.pack_weights import Packer
from sparse_deploy.graph.sparsity_check import SparsityKeepingPass

# q, k and v share their input's scale.
_STATIC_OF = (0, 3, 4, 5)


class FuseEncoderLayers(SparsityKeepingPass):
    """Replace encoder layers including their mask; other layers are not changed.

    Args:
        static: quantize activations with the scales of the file, if it has them (0 marks the others, which are
            dynamic).
        exclude: layers with a weight whose name contains one of these texts are not replaced.

    Attributes:
        fused: names of the replaced layers.
        refused: the other layers, with the reason.
    """

    def __init__(self, *, static: bool = False, exclude: Sequence[str] = ()) -> None:
        super().__init__()
        self._static = static
        self._exclude = tuple(exclude)
        self.fused: list[str] = []
        self.refused: list[Refusal] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace in place."""
        linears, _ = find_linears(model)
        matcher = EncoderLayerMatcher(linears, list(model.graph.inputs))
        layers: list[EncoderLayer] = []
        for anchor in [node for node in model.graph if node.op_type in ANCHORS]:
            try:
                layers.append(self._accepted(matcher.match(anchor), linears))
            except NoMatchError as reason:
                self.refused.append(Refusal(_name_near(anchor, linears), str(reason)))
        packer = Packer(model.graph)
        if layers:
            operators.import_domain(model)
        # Last layer first, so that a layer's input is still the matched value.
        for layer in reversed(layers):
            self.fused.insert(0, self._replace(model, layer, packer))
        if layers:
            RemoveUnusedNodesPass()(model)
            packer.take_names()
        return ir.passes.PassResult(model, modified=bool(layers))

    def _accepted(self, layer: EncoderLayer, linears: Sequence[Linear]) -> EncoderLayer:
        """The layer, if the settings and the file's quantization allow INT8 for all of it."""
        for linear in layer.linears:
            if any(part in linear.name for part in self._exclude):
                raise NoMatchError(f"{linear.name} is excluded from INT8")
        if any(linear.weight.quantized for linear in linears):
            left = next((linear.name for linear in layer.linears if not linear.weight.quantized), None)
            if left is not None:
                raise NoMatchError(f"{left} is FP32 in an INT8 file")
        if len({linear.static for linear in layer.linears[:3]}) != 1:
            raise NoMatchError("query, key and value read inputs of different scales")
        return layer

    def _replace(self, model: ir.Model, layer: EncoderLayer, packer: Packer) -> str:
        weights = [value for linear in layer.linears for value in packer.pack(linear).values]
        epsilon = (layer.attention_norm or layer.output_norm).epsilon
        node = ir.node(
            operators.SPARSE_ENCODER_LAYER,
            [
                layer.x,
                layer.attention.mask,
                *weights,
                *_norm_inputs(layer, packer),
                *self._static_inputs(layer, packer),
            ],
            {"num_heads": layer.attention.heads, "epsilon": epsilon, "activation": layer.activation},
            domain=operators.DOMAIN,
            version=operators.VERSION,
            name=free_name(model.graph, _name_of(layer)),
        )
        replace_value(model.graph, layer.output, node)
        _set_version_2(model, node, layer)
        return node.name or ""

    def _static_inputs(self, layer: EncoderLayer, packer: Packer) -> tuple[ir.Value, ...]:
        attention = layer.attention
        behind = (*(() if attention.bias is None else (attention.bias,)), *(attention.positions or ()))
        scales = [static_scale(layer.linears[place]) for place in _STATIC_OF]
        if not self._static or not any(scale.scale for scale in scales):
            if not behind:
                return ()
            scales = [StaticScale(0.0, 0)] * len(_STATIC_OF)  # an omitted optional input ends the list
        name = _name_of(layer)
        return (
            packer.constant(f"{name}.x_scale", np.array([scale.scale for scale in scales], np.float32)),
            packer.constant(f"{name}.x_zero_point", np.array([scale.zero_point for scale in scales], np.uint8)),
            *behind,
        )


def _norm_inputs(layer: EncoderLayer, packer: Packer) -> list[ir.Value]:
    """Gamma and beta of both LayerNorms; ones and zeros if the layer has none."""
    hidden = layer.attention.query.shape[1]
    zeros = np.zeros(hidden, np.float32)
    inputs: list[ir.Value] = []
    for norm in (layer.attention_norm, layer.output_norm):
        gamma = None if norm is None else norm.gamma
        beta = None if norm is None else norm.beta
        inputs.append(gamma or packer.shared(f"layer_norm_ones_{hidden}", zeros + 1))
        inputs.append(beta or packer.shared(f"layer_norm_zeros_{hidden}", zeros))
    return inputs


def _set_version_2(model: ir.Model, node: ir.Node, layer: EncoderLayer) -> None:
    """The attributes of version 2, if the layer needs them."""
    attributes: dict[str, int | float] = {}
    if layer.attention.bias is not None:
        attributes["position_bias"] = 1
    if layer.attention.scale is not None:
        attributes["attention_scale"] = layer.attention.scale
    if layer.attention_norm is None:
        attributes["attention_norm"] = 0
    elif layer.output_norm.epsilon != layer.attention_norm.epsilon:
        attributes["output_epsilon"] = layer.output_norm.epsilon
    flags = {
        "norm_first": layer.norm_first,
        "gated": layer.gated,
        "packed_qkv": layer.attention.packed,
        "rotary": layer.attention.positions is not None,
    }
    attributes |= {name: 1 for name, wanted in flags.items() if wanted}
    if layer.attention.window:
        attributes["window"] = layer.attention.window
    if attributes:
        operators.set_version_2(model, node, **attributes)


def static_scale(linear: Linear) -> StaticScale:
    """The calibrated scale of a layer's input; 0 if there is none, or if the input is smoothed."""
    return linear.static if linear.static is not None and linear.smoothing is None else StaticScale(0.0, 0)


def free_name(graph: ir.Graph, name: str) -> str:
    """A unique node name, because layers with shared weights also share the parameters' names."""
    taken = {node.name for node in graph}
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def replace_value(graph: ir.Graph, old: ir.Value, node: ir.Node) -> None:
    """Replace the node that computes a value by a node with one output; type, shape and name are kept."""
    producer = old.producer()
    assert producer is not None  # noqa: S101 - matches have computed outputs
    new = node.outputs[0]
    new.type, new.shape = old.type, old.shape
    name, old.name = old.name, f"{old.name}_replaced"
    new.name = name
    graph.insert_before(producer, node)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _name_of(layer: EncoderLayer) -> str:
    return _common_name(linear.name for linear in layer.linears) or f"layer_{layer.output.name}"


def _common_name(names: Iterable[str]) -> str:
    """The common module of parameters: ``bert.encoder.layer.0``."""
    levels = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def _name_near(anchor: ir.Node, linears: Sequence[Linear]) -> str:
    """The module of an attention, from the names of its weights; else the name of the node."""
    by_output = {linear.output: linear.name for linear in linears}
    _, leaves = ancestors([value for value in anchor.inputs if value is not None], stop=by_output)
    return _common_name(sorted(by_output[leaf] for leaf in leaves if leaf in by_output)) or str(anchor.name)
