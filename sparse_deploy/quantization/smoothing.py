# SPDX-License-Identifier: Apache-2.0
"""Moves activation outliers into the weights before static quantization (SmoothQuant, arXiv 2211.10438).

Neural Compressor's own SmoothQuant needs IPEX, which has no build for torch 2.13.
"""

from collections.abc import Container, Sequence
from typing import Any

import torch

from sparse_deploy.architectures import MODEL_INPUTS, without_head
from sparse_deploy.quantization.calibration import Batch

# Largest channel divided by median channel. MiniLM: 4.4 to 20.7 in feed-forward blocks, 2.2 to 4.7 at the attention
# output, where smoothing has no benefit.
_OUTLIER = 5.0
_SMALLEST = 1e-5
_LINEAR = torch.ops.aten.linear.default
SMOOTHING = "smoothing"  # suffix of the factor's name


def token_linears(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    """The Linear nodes that are applied to each token, without the head and without products of constants."""
    found = linears(graph)
    shapes = [(_width(node), _width(node.args[0])) for node in found]
    changing = _changing(graph)
    return [node for node in without_head(found, shapes) if node.meta["val"].dim() > 2 and node.args[0] in changing]


def linears(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    """All Linear nodes, in order."""
    return [node for node in graph.nodes if node.target is _LINEAR]


def _changing(graph: torch.fx.Graph) -> set[Any]:
    """The nodes that depend on an input of the model.

    DeBERTa multiplies its table of relative positions by weights. ONNX Runtime computes such a product once, when it
    opens the file, but only without quantization: it does not fold QuantizeLinear and DequantizeLinear.
    """
    found: set[Any] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _width(value: Any) -> int:
    while "val" not in value.meta:  # an observer that Neural Compressor has put in between
        value = value.args[0]
    return int(value.meta["val"].shape[-1])


# Largest magnitude per input channel, [in], by the name of a Linear node in the exported graph.
OutlierRanges = dict[str, torch.Tensor]


def record_outliers(
    exported: torch.fx.GraphModule, batches: Sequence[Batch], skip: Container[torch.fx.Node] = ()
) -> OutlierRanges:
    """Run calibration batches and record the ranges of inputs that can be smoothed and have outlier channels.

    Args:
        exported: an exported graph.
        batches: calibration batches; padding is ignored.
        skip: Linear nodes whose weights must not change.
    """
    chosen = [node for node in token_linears(exported.graph) if node not in skip and _can_be_smoothed(node)]
    if not chosen:
        return {}
    recorder = _RangeRecorder(exported, {_input(node) for node in chosen})
    for batch in batches:
        recorder.record(batch)
    ranges = {node.name: recorder.ranges[_input(node)] for node in chosen}
    return {name: largest for name, largest in ranges.items() if largest.max() > _OUTLIER * largest.median()}


def smooth_outliers(exported: torch.fx.GraphModule, ranges: OutlierRanges, alpha: float) -> None:
    """Change Linear layers to ``(x / s) @ (W * s).T``: the same result, with fewer outliers in ``x / s``.

    ``s`` has one positive number per input channel, ``max|x|**alpha / max|W|**(1 - alpha)``, so zero weights stay
    zeros. It costs one multiplication of the layer's input, so it is done only for inputs with outlier channels that
    one Linear reads. In BERT these are the two layers of each feed-forward block.

    Args:
        exported: an exported graph, changed in place; the source module keeps its weights.
        ranges: ranges of :func:`record_outliers` on this graph or on the graph of which it is a copy.
        alpha: share of the range difference that is moved into the weight; docs/int8.md compares 0, 0.5 and 0.8.
    """
    for node in list(exported.graph.nodes):
        if node.target is _LINEAR and node.name in ranges:
            _smooth(exported, node, ranges[node.name], alpha)
    exported.graph.lint()
    exported.recompile()


def graph_inputs(exported: torch.nn.Module) -> tuple[str, ...]:
    """Names of the inputs of an exported graph: the first of :data:`MODEL_INPUTS`."""
    graph = exported.graph
    assert isinstance(graph, torch.fx.Graph)  # noqa: S101 - it is a GraphModule
    return MODEL_INPUTS[: sum(node.op == "placeholder" for node in graph.nodes)]


class _RangeRecorder(torch.fx.Interpreter):
    """Runs a graph and records the largest magnitude per channel of chosen nodes over all tokens without padding."""

    def __init__(self, module: torch.fx.GraphModule, wanted: set[torch.fx.Node]) -> None:
        super().__init__(module)
        self._wanted = wanted
        self._tokens = torch.empty(0)
        self.ranges: dict[torch.fx.Node, torch.Tensor] = {}

    def record(self, batch: Batch) -> None:
        self._tokens = torch.from_numpy(batch["attention_mask"]).bool()
        self.run(*(torch.from_numpy(batch[name]) for name in graph_inputs(self.module)))

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._wanted:
            largest = result[self._tokens].abs().amax(dim=0)
            self.ranges[n] = torch.maximum(self.ranges.get(n, largest), largest)
        return result


def _can_be_smoothed(linear: torch.fx.Node) -> bool:
    readers = [user for user in _input(linear).users if user.target is _LINEAR]
    weight = linear.args[1]
    return len(readers) == 1 and isinstance(weight, torch.fx.Node) and len(weight.users) == 1


def _smooth(exported: torch.fx.GraphModule, linear: torch.fx.Node, largest: torch.Tensor, alpha: float) -> None:
    values, weight = _input(linear), linear.args[1]
    assert isinstance(weight, torch.fx.Node)  # noqa: S101 - checked by _can_be_smoothed
    owner_name, _, attribute = str(weight.target).rpartition(".")
    owner = exported.get_submodule(owner_name)
    original = getattr(owner, attribute)
    magnitude = original.abs().amax(dim=0).clamp(min=_SMALLEST)
    scale = largest.clamp(min=_SMALLEST) ** alpha / magnitude ** (1 - alpha)
    setattr(owner, attribute, torch.nn.Parameter(original * scale, requires_grad=False))
    owner.register_buffer(SMOOTHING, 1 / scale)
    fake = values.meta["val"]
    with exported.graph.inserting_before(linear):
        factor = exported.graph.get_attr(f"{owner_name}.{SMOOTHING}")
        factor.meta["val"] = fake.fake_mode.from_tensor(owner.smoothing)
        divided = exported.graph.call_function(torch.ops.aten.mul.Tensor, (values, factor))
        divided.meta["val"] = fake
    linear.replace_input_with(values, divided)


def _input(linear: torch.fx.Node) -> torch.fx.Node:
    values = linear.args[0]
    assert isinstance(values, torch.fx.Node)  # noqa: S101 - a Linear's input is computed
    return values
