# SPDX-License-Identifier: Apache-2.0
"""Static INT8 weights, rounded with compensation (``quantization.weight_rounding: compensated``)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.pruning.hessian import HessianSum
from sparse_deploy.pruning.rounding import round_compensated
from sparse_deploy.quantization.calibration import Batch
from sparse_deploy.quantization.smoothing import token_linears

# Memory for Hessians; the text of a larger model runs several times.
_MOST_BYTES = 2**30


def compensate_rounding(
    graph: torch.fx.GraphModule, prepared: torch.fx.GraphModule, batches: Sequence[Batch]
) -> dict[str, torch.Tensor]:
    """Round the weights of a calibrated graph to their integer grids, so that the conversion does not round them.

    Args:
        graph: the graph before the insertion of observers, already smoothed; it computes the inputs.
        prepared: the calibrated graph with observers; its weights are changed in place.
        batches: calibration batches; padding is ignored.

    Returns:
        The rounded weights by name.

    Raises:
        DataError: all inputs of a layer are zero.
    """
    observers = _weight_observers(prepared)
    inputs = {_weight(node): _input(node) for node in token_linears(graph.graph)}
    wanted = {name: inputs[name] for name in observers if name in inputs}
    rounded: dict[str, torch.Tensor] = {}
    for group in _groups(graph, wanted):
        recorder = _InputRecorder(graph, set(group.values()))
        for batch in batches:
            recorder.record(batch)
        for name, node in group.items():
            observer, weight = observers[name], _parameter(prepared, name)
            scale, _ = observer.calculate_qparams()
            hessian = recorder.sums[node].mean()
            rounded[name] = round_compensated(weight.detach().float(), hessian, scale.float(), observer.grid, name)
            weight.data.copy_(rounded[name])
    return rounded


class _InputRecorder(torch.fx.Interpreter):
    """Runs a graph and sums ``x x^T`` of chosen nodes over all tokens without padding."""

    def __init__(self, module: torch.fx.GraphModule, wanted: set[torch.fx.Node]) -> None:
        super().__init__(module)
        self._wanted = wanted
        self._tokens = torch.empty(0)
        self.sums: dict[torch.fx.Node, HessianSum] = {}

    def record(self, batch: Batch) -> None:
        self._tokens = torch.from_numpy(batch["attention_mask"]).bool()
        self.run(*(torch.from_numpy(batch[name]) for name in MODEL_INPUTS))

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._wanted:
            values = result[self._tokens]
            self.sums.setdefault(n, HessianSum(values.shape[-1])).add(values)
        return result


def _groups(graph: torch.fx.GraphModule, wanted: Mapping[str, torch.fx.Node]) -> list[dict[str, torch.fx.Node]]:
    """Groups of weights whose Hessians fit in memory; weights with the same input are in one group."""
    groups: list[dict[str, torch.fx.Node]] = [{}]
    held: set[torch.fx.Node] = set()
    size = 0
    for name, node in wanted.items():
        if node not in held:
            needed = 4 * _parameter(graph, name).shape[1] ** 2
            if size + needed > _MOST_BYTES and groups[-1]:
                groups.append({})
                held, size = set(), 0
            held.add(node)
            size += needed
        groups[-1][name] = node
    return groups


def _weight_observers(prepared: torch.fx.GraphModule) -> dict[str, Any]:
    """Observers of the weights of token linears, by weight name."""
    found = {}
    for node in token_linears(prepared.graph):
        observed = node.args[1]
        if isinstance(observed, torch.fx.Node) and observed.op == "call_module":
            found[_weight(node)] = prepared.get_submodule(str(observed.target))
    return found


def _weight(linear: torch.fx.Node) -> str:
    weight = linear.args[1]
    while isinstance(weight, torch.fx.Node) and weight.op != "get_attr":
        weight = weight.args[0]
    assert isinstance(weight, torch.fx.Node)  # noqa: S101 - a Linear's weight is a parameter
    return str(weight.target)


def _input(linear: torch.fx.Node) -> torch.fx.Node:
    values = linear.args[0]
    assert isinstance(values, torch.fx.Node)  # noqa: S101 - a Linear's input is computed
    return values


def _parameter(module: torch.fx.GraphModule, name: str) -> torch.nn.Parameter:
    owner, _, attribute = name.rpartition(".")
    parameter: torch.nn.Parameter = getattr(module.get_submodule(owner), attribute)
    return parameter
