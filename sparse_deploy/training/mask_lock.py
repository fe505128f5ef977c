# SPDX-License-Identifier: Apache-2.0
"""Keeps pruned weights exactly zero while any optimizer trains the other weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparse_deploy.errors import CheckpointError, SparsityLostError
from sparse_deploy.sparsity.mask import pack_mask, unpack_mask
from sparse_deploy.sparsity.pattern import BoolArray

MASK_FILE = "zero_masks.safetensors"


class MaskLock:
    """Holds the zero masks of a model and enforces them.

    Two operations keep a pruned weight at exactly zero. Its gradient is multiplied by zero before it is accumulated, so
    that gradient clipping, momentum and the second moment include kept weights only; and the weight is multiplied by
    zero after every optimizer step, which works with any optimizer, weight decay or restored state. Multiplying by a
    float mask is ten times as fast as ``masked_fill_`` (docs/architecture.md; ``benchmarks/mask_overhead.py`` measures
    the overhead per step).

    Args:
        parameters: the weights to lock, by name.
        zeros: zero masks by name; a parameter without a mask is not locked.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], zeros: Mapping[str, BoolArray]) -> None:
        self._parameters = dict(parameters)
        self._keep: dict[str, torch.Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        self.replace(zeros)

    @property
    def zeros(self) -> dict[str, BoolArray]:
        """The enforced zero masks, by parameter name."""
        return {name: (keep == 0).cpu().numpy() for name, keep in self._keep.items()}

    def replace(self, zeros: Mapping[str, BoolArray]) -> None:
        """Replace the masks, and set their weights to zero."""
        for name, mask in zeros.items():
            weight = self._parameters[name]
            self._keep[name] = torch.from_numpy(~mask).to(device=weight.device, dtype=weight.dtype)
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Set every pruned weight to zero."""
        for name, keep in self._keep.items():
            self._parameters[name].mul_(keep)

    def hook_gradients(self) -> None:
        """Zero the gradients of pruned weights before they are accumulated (and, under DDP, averaged)."""
        for name, parameter in self._parameters.items():
            # The mask is read in each call, because gradual pruning replaces it during training.
            hook: RemovableHandle = parameter.register_hook(  # type: ignore[no-untyped-call]
                lambda grad, name=name: self._masked(grad, name)
            )
            self._hooks.append(hook)

    def unhook_gradients(self) -> None:
        """Undo :meth:`hook_gradients`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.no_grad()
    def verify(self, stage: str) -> None:
        """Check that all pruned weights are zero.

        Raises:
            SparsityLostError: a pruned weight is not zero (or NaN).
        """
        for name, keep in self._keep.items():
            required = int((keep == 0).sum())
            kept = int(((keep == 0) & (self._parameters[name] == 0)).sum())
            if kept != required:
                raise SparsityLostError(stage, name, before=required, after=kept)

    def save(self, folder: Path) -> None:
        """Write the masks as packed bits to ``folder``."""
        zeros = self.zeros
        shapes = {name: "x".join(map(str, mask.shape)) for name, mask in zeros.items()}
        save_file({name: pack_mask(mask) for name, mask in zeros.items()}, folder / MASK_FILE, metadata=shapes)

    def _masked(self, grad: torch.Tensor, name: str) -> torch.Tensor:
        keep = self._keep.get(name)
        return grad if keep is None else grad * keep


def load_masks(folder: Path, parameters: Mapping[str, torch.Tensor]) -> dict[str, BoolArray]:
    """Read masks from a file of :meth:`MaskLock.save`.

    Raises:
        CheckpointError: the file is unreadable or does not fit the model.
    """
    path = folder / MASK_FILE
    try:
        packed = load_file(path)
    except Exception as error:  # safetensors raises its own class or OSError
        raise CheckpointError(
            f"{path}: the recorded masks can't be read: {error}; use an earlier checkpoint"
        ) from error
    masks = {}
    for name, bits in packed.items():
        shape = tuple(parameters[name].shape) if name in parameters else (0, 0)
        if bits.size != (int(np.prod(shape)) + 7) // 8:
            raise CheckpointError(f"{path}: the recorded mask of {name} does not fit this model")
        masks[name] = unpack_mask(bits, shape)
    return masks


class MaskLockCallback(TrainerCallback):  # type: ignore[misc]
    """Runs a :class:`MaskLock` inside the Trainer: applied after each step, verified at each save and at the end."""

    def __init__(self, lock: MaskLock) -> None:
        self.lock = lock

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Install the gradient hooks; weights restored from a checkpoint must already have the zeros."""
        self.lock.verify("start of training")
        self.lock.hook_gradients()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set pruned weights to zero after the optimizer step."""
        self.lock.apply()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the run if a pruned weight has changed since the last step."""
        self.lock.verify(f"epoch {state.epoch:g}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop the run if a checkpoint lost zeros; store the masks with the checkpoint."""
        self.lock.verify(f"checkpoint at step {state.global_step}")
        if state.is_world_process_zero:
            self.lock.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Final check."""
        self.lock.unhook_gradients()
        self.lock.verify("end of training")
