# SPDX-License-Identifier: Apache-2.0
"""Static INT8 of a checkpoint from quantization-aware training, with its activation ranges instead of calibration."""

from collections.abc import Mapping
from typing import Any

import torch
from torchao.quantization.pt2e import MinMaxObserver

from sparse_deploy.activation_ranges import RANGES_FILE, ActivationRanges
from sparse_deploy.errors import QuantizationError
from sparse_deploy.quantization.observers import JointObserver
from sparse_deploy.quantization.smoothing import token_linears
from sparse_deploy.sparsity.weight_grid import WeightGrid


class LearnedRange(MinMaxObserver):  # type: ignore[misc]
    """An observer with a fixed range.

    Args:
        limits: lowest and highest value.
        like: observer with the data type and integer range.
    """

    def __init__(self, limits: tuple[float, float], like: Any) -> None:
        super().__init__(dtype=like.dtype, qscheme=like.qscheme, quant_min=like.quant_min, quant_max=like.quant_max)
        self.min_val.fill_(limits[0])
        self.max_val.fill_(limits[1])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values unchanged."""
        return values


def learned_linears(graph: torch.fx.Graph, ranges: ActivationRanges | None) -> dict[torch.fx.Node, tuple[float, float]]:
    """The Linear nodes of a graph whose input has a learned range, and the range."""
    if ranges is None:
        return {}
    found = {}
    for node in token_linears(graph):
        name = _module_name(node)
        # A wrapper around the model adds a prefix to the name.
        known = next((known for known in ranges.layers if name == known or name.endswith(f".{known}")), None)
        if known is not None:
            found[node] = ranges.layers[known]
    return found


def use_learned_ranges(
    prepared: torch.fx.GraphModule, observers: Mapping[torch.fx.Node, JointObserver], ranges: ActivationRanges
) -> int:
    """Set learned ranges in the observers of a prepared graph, instead of calibration.

    Args:
        prepared: a graph with observers on inputs and weights of its Linear layers.
        observers: observers of inputs, by node; changed in place, for every method.
        ranges: ranges of the checkpoint.

    Returns:
        Number of inputs that still need calibration.

    Raises:
        QuantizationError: the ranges belong to another model, or to weights trained on another grid.
    """
    learned = learned_linears(prepared.graph, ranges)
    if not learned:
        raise QuantizationError(
            f"{RANGES_FILE}: expected ranges for layers of this model, found only those of "
            f"{next(iter(ranges.layers), 'no layer')!r} and the like; delete the file to calibrate instead"
        )
    left = 0
    for node, observer in observers.items():
        readers = [user for user in node.users if user in learned]
        limits = {learned[reader] for reader in readers}
        if len(limits) > 1:
            raise QuantizationError(
                f"{RANGES_FILE}: expected one range for the input of {_module_name(readers[0])}, found "
                f"{sorted(limits)}; train again, or delete the file to calibrate instead"
            )
        left += not limits
        for found in limits:
            for method, like in observer.observers.items():
                observer.observers[method] = LearnedRange(found, like)
        for reader in readers:
            _check_grid(prepared, reader, ranges.grid)
    return left


def _check_grid(prepared: torch.fx.GraphModule, linear: torch.fx.Node, expected: WeightGrid) -> None:
    weight = linear.args[1]
    assert isinstance(weight, torch.fx.Node)  # noqa: S101 - an observed Linear has an observed weight
    observer: Any = prepared.get_submodule(str(weight.target))
    found = observer.grid
    if found != expected:
        raise QuantizationError(
            f"{_module_name(linear)}: trained for weights of {expected}; found {found}; set quantization.target_cpu as "
            f"it was in the recipe of finetune"
        )


def _module_name(linear: torch.fx.Node) -> str:
    """Module name of a Linear node, from the name of its weight, with or without an observer in between."""
    weight = linear.args[1]
    while isinstance(weight, torch.fx.Node) and weight.op != "get_attr":
        weight = weight.args[0]
    return str(weight.target).removesuffix(".weight") if isinstance(weight, torch.fx.Node) else ""
