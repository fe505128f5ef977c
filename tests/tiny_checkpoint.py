# SPDX-License-Identifier: Apache-2.0
"""Small sparse checkpoints and the recipe that trains them in seconds."""

import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from sparse_deploy.config import Recipe, recipe_from_mapping
from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.sparsity.pattern import SparsityPattern
from sparse_deploy.sparsity.statistics import prunable_names


def prune_folder(source: Path, target: Path, pattern: str, target_share: float) -> Path:
    """Copy a checkpoint and prune its encoder weights one-shot to a pattern."""
    from sparse_deploy.pruning.magnitude import magnitude_masks

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    names = prunable_names([n for n, w in weights.items() if w.ndim == 2], DEFAULT_EXCLUDE)
    masks = magnitude_masks({n: weights[n] for n in names}, SparsityPattern.parse(pattern), target_share, "layer")
    for name, mask in masks.items():
        weights[name][np.asarray(mask)] = 0.0
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def demo_recipe(model: Path, **changes: object) -> Recipe:
    """A recipe for the demo text that trains in seconds on the tiny encoder; ``changes`` replace whole sections."""
    data = {
        "name": "tiny-demo-u70",
        "task": "demo",
        "model": {"name_or_path": str(model)},
        "data": {"max_length": 64, "train_samples": 256, "validation_samples": 96},
        "sparsity": {"mode": "lock", "pattern": "unstructured", "target": 0.7},
        "finetune": {
            "precision": "fp32",  # the trained weights must not depend on the CPU
            "max_steps": 12, "learning_rate": 1e-3, "train_batch_size": 16, "weight_decay": 0.1, "save_steps": 5,
            "logging_steps": 4,
        },
        # After few steps half of the rows have logits that differ by less than 0.05; INT8 changes them by up to 0.02.
        "export": {"int8_agreement": 0.75},
        "quantization": {"calibration_samples": 32},
        "bench": {"blocks": 2, "block_seconds": 0.1, "warmup_seconds": 0.5, "throughput_batch_size": 8},
    }  # fmt: skip
    return recipe_from_mapping(data | changes, "test")
