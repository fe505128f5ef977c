# SPDX-License-Identifier: Apache-2.0
"""The file with the activation ranges that quantization-aware training writes for ``export``."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sparse_deploy.artifacts import write_text_atomically
from sparse_deploy.errors import CheckpointError, one_line
from sparse_deploy.sparsity.weight_grid import WeightGrid
from sparse_deploy.strict_json import read_bounded

RANGES_FILE = "quantization_ranges.json"
_MAX_BYTES = 16 * 2**20

Finite = Annotated[float, Field(allow_inf_nan=False)]


class ActivationRanges(BaseModel):
    """The ranges of the inputs of the quantized Linear layers, and the grid of the trained weights.

    A range becomes an asymmetric u8 scale and zero point for the whole tensor, with zero always representable:
    ``scale = (max(high, 0) - min(low, 0)) / 255``, ``zero_point = -round(min(low, 0) / scale)``.

    Attributes:
        schema_version: version of the file's schema.
        weight_limits: smallest and largest integer of a weight.
        weight_neighbours: rule for the scale of an output channel; see
            :meth:`sparse_deploy.sparsity.weight_grid.WeightGrid.scale`.
        layers: lowest and highest input by module name of a Linear; FP32 numbers, which JSON stores exactly.
        batches: number of training batches over which the ranges are averaged.
        frozen: whether the ranges are fixed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    weight_limits: tuple[int, int]
    weight_neighbours: bool = False
    layers: dict[str, tuple[Finite, Finite]]
    batches: int
    frozen: bool

    @property
    def grid(self) -> WeightGrid:
        """The grid that the weights were trained on."""
        return WeightGrid(*self.weight_limits, neighbours=self.weight_neighbours)

    def write(self, folder: Path) -> None:
        """Write the file into a folder.

        Raises:
            ArtifactError: the file can't be written.
        """
        write_text_atomically(folder / RANGES_FILE, self.model_dump_json(indent=1) + "\n")


def read_ranges(folder: Path) -> ActivationRanges | None:
    """Read the ranges of a checkpoint folder; None if it has no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / RANGES_FILE
    if not path.is_file():
        return None
    try:
        return ActivationRanges.model_validate_json(read_bounded(path, _MAX_BYTES))
    except (ValueError, OSError) as error:
        reason = one_line(error)
        raise CheckpointError(
            f"{path}: not readable as activation ranges: {reason}; copy the checkpoint again, or delete the file to "
            f"calibrate instead"
        ) from error
