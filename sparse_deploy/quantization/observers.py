# SPDX-License-Identifier: Apache-2.0
"""Ranges of activations from calibration, and scales of weights from their grid."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver

from sparse_deploy.sparsity.weight_grid import WeightGrid

# Bins of the percentile's histogram. Values inside a bin are treated as evenly distributed; 8192 bins instead of
# torchao's 2048 keep the error small if an outlier makes the range a hundred times larger.
_BINS = 8192


class PercentileObserver(HistogramObserver):  # type: ignore[misc]
    """The range of a share of all values, with equal numbers dropped below and above; always includes zero.

    Args:
        percentile: share of the values inside, in percent.
        settings: settings of torchao's HistogramObserver.
    """

    def __init__(self, percentile: float, **settings: Any) -> None:
        super().__init__(bins=_BINS, **settings)
        self._tail = (1 - percentile / 100) / 2

    def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The range for torchao, by share of values instead of loss."""
        counts: torch.Tensor = self.histogram.to(torch.float64)
        reached = torch.cat([counts.new_zeros(1), counts.cumsum(0)]) / counts.sum()
        edges = torch.linspace(self.min_val.item(), self.max_val.item(), len(reached), dtype=torch.float64)
        low, high = (_where(reached, edges, share) for share in (self._tail, 1 - self._tail))
        return low.to(self.min_val), high.to(self.max_val)


class JointObserver(MinMaxObserver):  # type: ignore[misc]
    """Several observers of one tensor; the first one determines the range.

    Args:
        observers: observers by name of the method.
        settings: data type and range of the first observer.
    """

    def __init__(self, observers: Mapping[str, MinMaxObserver | HistogramObserver], **settings: Any) -> None:
        super().__init__(**settings)
        self.observers = torch.nn.ModuleDict(observers)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Pass the tensor to all observers."""
        for observer in self.observers.values():
            observer(values)
        return values

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point of the first observer."""
        first: Any = next(iter(self.observers.values()))
        scale, zero_point = first.calculate_qparams()
        return scale, zero_point

    def scales(self) -> dict[str, tuple[float, int]]:
        """Scale and zero point by method."""
        observers: dict[str, Any] = dict(self.observers.items())
        found = {name: observer.calculate_qparams() for name, observer in observers.items()}
        return {name: (float(scale), int(zero_point)) for name, (scale, zero_point) in found.items()}


def activation_observer(like: Any, methods: Sequence[str], percentile: float) -> JointObserver:
    """An observer with several methods.

    Args:
        like: Neural Compressor's observer, for data type and range.
        methods: ``minmax``, ``percentile``, ``kl``; the first is used.
        percentile: see :class:`PercentileObserver`.
    """
    settings = {name: getattr(like, name) for name in ("dtype", "qscheme", "quant_min", "quant_max")}
    # Neural Compressor's "minmax" is a moving average with constant 0.01: the first batch determines the
    # range, and later values outside are clipped. The plain minimum and maximum do not depend on the order.
    kinds: dict[str, Callable[[], Any]] = {
        "minmax": lambda: MinMaxObserver(**settings),
        "percentile": lambda: PercentileObserver(percentile, **settings),
        "kl": lambda: HistogramObserver(**settings),
    }
    return JointObserver({method: kinds[method]() for method in dict.fromkeys(methods)}, **settings)


class WeightObserver(PerChannelMinMaxObserver):  # type: ignore[misc]
    """The scales of an ``[out, in]`` weight on a grid.

    Args:
        grid: see :class:`WeightGrid`.
        like: Neural Compressor's observer, for the data type.
    """

    def __init__(self, grid: WeightGrid, like: PerChannelMinMaxObserver) -> None:
        super().__init__(
            ch_axis=like.ch_axis, dtype=like.dtype, qscheme=like.qscheme, quant_min=grid.low, quant_max=grid.high
        )
        self.grid = grid
        self._scale = torch.empty(0)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Observe the weight."""
        self._scale = self.grid.scale(weight.detach(), torch).clamp(min=torch.finfo(torch.float32).eps)
        super().forward(weight)
        return weight

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales per output channel, and zero points, which are 0."""
        return self._scale, torch.zeros(len(self._scale), dtype=torch.int64)


def _where(reached: torch.Tensor, edges: torch.Tensor, share: float) -> torch.Tensor:
    """The value below which this share of the values is, with linear interpolation inside a bin."""
    upper = int(torch.searchsorted(reached, share).clamp(1, len(reached) - 1))
    below, above = reached[upper - 1], reached[upper]
    part = ((share - below) / (above - below)).clamp(0, 1) if above > below else torch.zeros_like(below)
    return edges[upper - 1] + part * (edges[upper] - edges[upper - 1])
