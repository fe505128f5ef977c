# SPDX-License-Identifier: Apache-2.0
"""What a runtime is to this package: something that opens one file of a deployment and answers batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.errors import ArtifactError

Array = NDArray[Any]
Hint = Literal["latency", "throughput"]

# Either of these is what a task's model answers with, in this order.
OUTPUT_NAMES = (("logits",), ("start_logits", "end_logits"))


class Session(Protocol):
    """An opened model."""

    def run(self, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        """Answer one batch.

        Args:
            inputs: int64 ``input_ids``, ``attention_mask``, ``token_type_ids``, each ``[batch, sequence]``.

        Returns:
            float32 ``(logits,)`` of ``[batch, labels]``, or ``(start_logits, end_logits)`` of ``[batch, sequence]``.

        Raises:
            ArtifactError: the model takes other inputs, or fails on these.
        """
        ...

    def close(self) -> None:
        """Free the model; the session can't be used afterwards."""
        ...


class Runtime(Protocol):
    """A library that runs models.

    Attributes:
        name: as recipes and cell ids spell it.
        files: precision to file name in the deployment folder.
        notes: precision to a sentence on how the cell gets its model, where that needs saying.
    """

    name: str
    files: Mapping[str, str]
    notes: Mapping[str, str]

    def available(self) -> bool:
        """Whether the library can be imported here."""
        ...

    def version(self) -> str:
        """The library's version; imports it, so that opening a file afterwards times the file alone.

        Raises:
            RuntimeUnavailableError: it can't be imported.
        """
        ...

    def open(self, folder: Path, precision: str, threads: int, hint: Hint = "latency") -> Session:
        """Open the file of a precision.

        Args:
            folder: the deployment.
            precision: ``fp32`` or ``int8``.
            threads: threads that one request may use.
            hint: what to tune for. Only OpenVINO knows the difference: ``throughput`` splits the threads into
                streams, which pays when requests run concurrently.

        Raises:
            RuntimeUnavailableError: the library is not installed, or has no such precision.
            ArtifactError: the file is missing or damaged.
        """
        ...


def require_file(runtime: str, folder: Path, files: Mapping[str, str], precision: str) -> Path:
    """The file that a runtime opens for a precision.

    Raises:
        ArtifactError: this deployment doesn't hold it, or the precision is unknown.
    """
    if precision not in files:
        raise ArtifactError(f"{runtime}: expected precision {' or '.join(files)}, found {precision!r}")
    path = folder / files[precision]
    if not path.is_file():
        raise ArtifactError(
            f"{path}: {runtime} {precision} needs this file and the deployment has none; export again (with INT8 or "
            f"OpenVINO switched on in the recipe)"
        )
    return path


def order_outputs(found: Sequence[str], path: Path) -> tuple[str, ...]:
    """The output names of a model in the order that sessions return them.

    Raises:
        ArtifactError: it is not a model of one of our tasks.
    """
    for names in OUTPUT_NAMES:
        if set(names) <= set(found):
            return names
    raise ArtifactError(
        f"{path}: expected outputs logits, or start_logits and end_logits; found {', '.join(sorted(found)) or 'none'}"
    )


def check_inputs(expected: Sequence[str], inputs: Mapping[str, Array], path: Path) -> None:
    """Check that a batch has exactly the inputs of a model.

    Raises:
        ArtifactError: a name is missing or unknown.
    """
    if set(expected) != set(inputs):
        raise ArtifactError(f"{path}: the model takes {', '.join(sorted(expected))}; got {', '.join(sorted(inputs))}")


def one_line(error: BaseException) -> str:
    """A native library's message on one line, cut to a readable length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def as_float32(array: Any) -> Array:
    """An owned, contiguous float32 copy (runtimes reuse their output buffers)."""
    return np.array(array, dtype=np.float32, order="C")
