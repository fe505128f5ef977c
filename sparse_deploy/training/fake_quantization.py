# SPDX-License-Identifier: Apache-2.0
"""Trains with the rounding of static INT8: fake-quantized weights and inputs of the layers that export quantizes.

The arithmetic is that of the export (torchao's observers under Neural Compressor's x86 recipe): symmetric int8 weights
per output channel, asymmetric u8 inputs per tensor. Modules, parameters and state dict of the model are not changed,
so the checkpoint has the usual form.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparse_deploy.activation_ranges import ActivationRanges
from sparse_deploy.architectures import without_head
from sparse_deploy.errors import ConfigError
from sparse_deploy.sparsity.weight_grid import WeightGrid

# Weight of a batch in the moving average of the ranges: a mean of the first 100 batches, then torch's default.
_AVERAGING = 0.01
_EPSILON = torch.finfo(torch.float32).eps


def weight_scale(weight: torch.Tensor, grid: WeightGrid) -> torch.Tensor:
    """Scale per output channel, ``[out, 1]``, equal to the export's observer."""
    scale: torch.Tensor = grid.scale(weight, torch)[:, None].clamp(min=_EPSILON)
    return scale


def input_scale(limits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of a u8 input with the range ``[low, high]``, equal to torchao's MinMaxObserver."""
    low, high = limits[0].clamp(max=0.0), limits[1].clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp(min=_EPSILON)
    return scale, (-torch.round(low / scale)).clamp(0, 255).to(torch.int32)


class _RoundWeight(torch.autograd.Function):
    """Straight-through: the gradient of the rounded weight is that of the weight.

    torch's fake_quantize is not used: its gradient is zero for clamped values, and with the export's scale (127.5 steps
    to the largest weight) every channel's largest positive weight is clamped. The division equals the export's, because
    a product with the reciprocal may round to the neighbouring step.
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, grid: WeightGrid) -> torch.Tensor:
        scale = weight_scale(weight, grid)
        return torch.round(weight / scale).clamp_(grid.low, grid.high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def fake_quantize_weight(weight: torch.Tensor, grid: WeightGrid) -> torch.Tensor:
    """Round an FP32 ``[out, in]`` weight to its int8 grid; zero stays exactly zero, gradients pass straight through."""
    rounded: torch.Tensor = _RoundWeight.apply(weight, grid)  # type: ignore[no-untyped-call]
    return rounded


def fake_quantize_input(values: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Round and clip FP32 values to the u8 grid of a range; no gradient flows where they are clipped."""
    scale, zero_point = input_scale(limits)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, 0, 255)


def token_linear_names(model: PreTrainedModel, exclude: Sequence[str] = ()) -> list[str]:
    """Module names of the Linear layers that are applied to each token, without the head.

    The rule equals that of the export; the execution order of the layers is found by running the model once.

    Args:
        model: any model with ``input_ids`` and ``attention_mask``.
        exclude: a layer whose name contains one of these texts stays FP32.

    Raises:
        ConfigError: no layer is left.
    """
    seen: list[tuple[str, int]] = []
    shapes: list[tuple[int, int]] = []

    def record(module: nn.Linear, inputs: tuple[torch.Tensor, ...], name: str) -> None:
        seen.append((name, inputs[0].ndim))
        shapes.append((module.out_features, module.in_features))

    hooks = [
        module.register_forward_pre_hook(functools.partial(record, name=name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    training = model.training
    try:
        ids = torch.zeros((2, 7), dtype=torch.int64, device=model.device)
        with torch.no_grad():
            model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    found = [
        name
        for name, dimensions in without_head(seen, shapes)
        if dimensions > 2 and not any(part in name for part in exclude)
    ]
    if not found:
        raise ConfigError(
            f"finetune.qat: expected Linear layers that are applied to each token, found none in "
            f"{type(model).__name__} outside quantization.exclude; omit qat, or shorten quantization.exclude"
        )
    return found


class FakeQuantization:
    """Fake INT8 on chosen Linear layers of a model, and the ranges of their inputs.

    Ranges are moving averages of each training batch's lowest and highest input, without padding, until
    :meth:`freeze`. They are updated and applied from the first batch on.

    Args:
        model: the model; while attached, its layers have different ``forward`` functions.
        layers: module names, see :func:`token_linear_names`.
        grid: grid of the weights.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[str], grid: WeightGrid) -> None:
        self._model = model
        self._linears = {name: model.get_submodule(name) for name in layers}
        self._grid = grid
        self._ranges: dict[str, torch.Tensor] = {}
        self._batches = dict.fromkeys(layers, 0)
        self._tokens: torch.Tensor | None = None
        self._hook: RemovableHandle | None = None
        self.frozen = False

    @property
    def ranges(self) -> ActivationRanges:
        """The current ranges.

        Raises:
            ConfigError: an input was NaN or infinite, so the training has diverged.
        """
        for name, limits in self._ranges.items():
            if not limits.isfinite().all():
                raise ConfigError(f"{name}: the inputs are no longer finite numbers; lower the learning rate")
        return ActivationRanges(
            weight_limits=(self._grid.low, self._grid.high),
            weight_neighbours=self._grid.neighbours,
            layers={name: (float(limits[0]), float(limits[1])) for name, limits in self._ranges.items()},
            batches=max(self._batches.values()),
            frozen=self.frozen,
        )

    def restore(self, ranges: ActivationRanges) -> None:
        """Continue from the ranges of an interrupted run."""
        device = self._model.device
        self._ranges = {name: torch.tensor(limits, device=device) for name, limits in ranges.layers.items()}
        self._batches = dict.fromkeys(self._linears, ranges.batches)
        self.frozen = ranges.frozen

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Compute with fake INT8 inside the block."""
        for name, linear in self._linears.items():
            linear.forward = functools.partial(self._forward, name, linear)
        self._hook = self._model.register_forward_pre_hook(self._remember_padding, with_kwargs=True)
        try:
            yield
        finally:
            self._hook.remove()
            for linear in self._linears.values():
                del linear.forward

    def freeze(self) -> None:
        """Fix the ranges."""
        self.frozen = True

    def average_over_processes(self) -> None:
        """Synchronize the ranges of all processes of a distributed run."""
        if not distributed.is_initialized():
            return
        stacked = torch.stack([self._ranges[name] for name in self._linears])
        distributed.all_reduce(stacked)
        stacked /= distributed.get_world_size()
        self._ranges = dict(zip(self._linears, stacked.unbind(), strict=True))

    def _forward(self, name: str, linear: nn.Linear, values: torch.Tensor) -> torch.Tensor:
        values = values.float()  # under autocast values are bf16, whose precision is similar to u8
        if linear.training and not self.frozen:
            self._observe(name, values.detach())
        if name in self._ranges:
            values = fake_quantize_input(values, self._ranges[name])
        return functional.linear(values, fake_quantize_weight(linear.weight, self._grid), linear.bias)

    def _observe(self, name: str, values: torch.Tensor) -> None:
        if self._tokens is not None and self._tokens.shape == values.shape[:-1]:
            values = values[self._tokens]
        found = torch.stack(values.aminmax())
        self._batches[name] += 1
        earlier = self._ranges.get(name, found)
        self._ranges[name] = earlier + (found - earlier) * max(_AVERAGING, 1 / self._batches[name])

    def _remember_padding(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask = named.get("attention_mask")
        self._tokens = mask.bool() if mask is not None else None


class FakeQuantizationCallback(TrainerCallback):  # type: ignore[misc]
    """Runs a :class:`FakeQuantization` inside the Trainer: freezes its ranges, and stores them at each save.

    Args:
        fake: fake quantization attached to the trained model.
        observe_steps: optimizer steps until the ranges are frozen; a share of all steps if below 1.
    """

    def __init__(self, fake: FakeQuantization, observe_steps: float) -> None:
        self._fake = fake
        self._observe_steps = observe_steps

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Synchronize the ranges with the other processes; freeze them at their step."""
        if self._fake.frozen:
            return
        self._fake.average_over_processes()
        limit = self._observe_steps * (state.max_steps if self._observe_steps < 1 else 1)
        if state.global_step + 1 >= min(limit, state.max_steps):  # the Trainer counts the step after this event
            self._fake.freeze()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Store the ranges in the resumable checkpoint."""
        if state.is_world_process_zero:
            self._fake.ranges.write(Path(args.output_dir) / f"checkpoint-{state.global_step}")
