# SPDX-License-Identifier: Apache-2.0
"""The cells of a deployment that a benchmark can run on this machine, and the reasons for the others."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_deploy.bounds import MAX_BATCH
from sparse_deploy.config.schema import Int8Mode, Recipe
from sparse_deploy.errors import ArtifactError, ConfigError, RuntimeUnavailableError
from sparse_deploy.runtimes import Runtime, get_runtime
from sparse_deploy.runtimes.protocol import usable_length
from sparse_deploy.runtimes.saturation import refuse_saturating_ir

if TYPE_CHECKING:
    from sparse_deploy.graph.openvino_ir import IrWeight

BASELINE = ("pytorch", "fp32")
# Not an error, even if the runtime was requested, because the runtime is installed.
_NO_INT8 = "the deployment was exported without INT8"


@dataclass(frozen=True)
class Candidate:
    """A runtime and precision with a file in the deployment."""

    runtime: Runtime
    precision: str

    @property
    def id(self) -> str:
        """The cell's id."""
        return f"{self.runtime.name}-{self.precision}"

    @property
    def file(self) -> str:
        """The model file, relative to the deployment."""
        return self.runtime.files[self.precision]


def find_candidates(
    deployment: Path, recipe: Recipe, *, explicit: bool = False
) -> tuple[list[Candidate], dict[str, str]]:
    """The cells that can run, the baseline first, and the reasons why the others can't.

    Args:
        deployment: folder of the deployment.
        recipe: the sections ``bench`` and ``quantization`` are used.
        explicit: the user selected the cells.

    Raises:
        RuntimeUnavailableError: a requested runtime is missing, or no candidate is left.
        ArtifactError: the file of a requested cell is missing.
    """
    found: list[Candidate] = []
    skipped: dict[str, str] = {}
    for runtime in map(get_runtime, recipe.bench.runtimes):
        for precision in (precision for precision in recipe.bench.precisions if precision in runtime.files):
            candidate = Candidate(runtime, precision)
            reason = _why_not(candidate, deployment, recipe)
            if not reason:
                found.append(candidate)
            elif explicit and reason != _NO_INT8:
                error = ArtifactError if runtime.available() else RuntimeUnavailableError
                raise error(f"{candidate.id} was requested: {reason}")
            else:
                skipped[candidate.id] = reason
    if not found:
        reasons = "; ".join(f"{cell}: {reason}" for cell, reason in skipped.items()) or (
            f"{', '.join(recipe.bench.runtimes)} runs no {', '.join(recipe.bench.precisions)}"
        )
        raise RuntimeUnavailableError(f"{deployment}: no cell can run here ({reasons})")
    found.sort(key=lambda candidate: (candidate.runtime.name, candidate.precision) != BASELINE)
    return found, skipped


def _why_not(candidate: Candidate, deployment: Path, recipe: Recipe) -> str:
    # The setting applies to runtimes that also have FP32; a sparse file is INT8 in any case.
    wanted = recipe.quantization.mode is not Int8Mode.NONE or "fp32" not in candidate.runtime.files
    if candidate.precision == "int8" and not wanted:
        return _NO_INT8
    if not (deployment / candidate.file).is_file():
        return f"the deployment has no {candidate.file}"
    if not candidate.runtime.available():
        return _what_is_missing(candidate.runtime)
    return _saturation(deployment / candidate.file) if candidate.id == "openvino-int8" else ""


def _saturation(ir: Path) -> str:
    """The reason why OpenVINO's results with an IR would be wrong on this CPU; empty if they are right."""

    def read() -> "list[IrWeight]":
        from sparse_deploy.graph.openvino_ir import read_weights_of_ir

        return read_weights_of_ir(ir)

    try:
        refuse_saturating_ir(read)
    except RuntimeUnavailableError as error:
        return str(error)
    return ""


def _what_is_missing(runtime: Runtime) -> str:
    try:
        runtime.version()
    except RuntimeUnavailableError as error:
        return str(error)
    return f"{runtime.name} is not installed"


def check_lengths(deployment: Path, recipe: Recipe) -> None:
    """Check that the model can read inputs of the recipe's length.

    Raises:
        ConfigError: the recipe's length is too large.
    """
    longest = usable_length(deployment) or math.inf
    if recipe.data.max_length > longest:
        raise ConfigError(f"data.max_length: the model reads at most {longest} tokens; found {recipe.data.max_length}")
    for batch, tokens in recipe.bench.shapes:
        if not 1 <= batch <= MAX_BATCH or not 1 <= tokens <= longest:
            raise ConfigError(
                f"bench.shapes: expected batch x tokens of 1x1 to {MAX_BATCH}x{longest}, the model's longest input; "
                f"found {batch}x{tokens}"
            )
