# SPDX-License-Identifier: Apache-2.0
"""The interface of runtimes: open one file of a deployment and run batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.architectures import architecture_of
from sparse_deploy.architectures.architecture import TOKEN_TYPE_IDS
from sparse_deploy.errors import ArtifactError, one_line
from sparse_deploy.strict_json import load_json_object, read_bounded
from sparse_deploy.untrusted.model_file import check_model_file

Array = NDArray[Any]
Hint = Literal["latency", "throughput"]

# Outputs of the models of a task: one of these, in this order.
OUTPUT_NAMES = (("logits",), ("start_logits", "end_logits"), ("sentence_embedding",))

_MAX_CONFIG_BYTES = 4 * 2**20
# Keys of config.json with sizes, and their allowed values.
_CONFIG_NUMBERS = {
    "vocab_size": (1, 2**24),
    "type_vocab_size": (0, 2**10),  # DeBERTa has none
    "max_position_embeddings": (1, 2**20),
    "pad_token_id": (0, 2**24),
}


class Session(Protocol):
    """An opened model."""

    def run(self, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        """Run one batch.

        Args:
            inputs: int64 ``input_ids``, ``attention_mask``, ``token_type_ids``, each ``[batch, sequence]``.

        Returns:
            float32 ``(logits,)`` of ``[batch, labels]``, or ``(start_logits, end_logits)`` of ``[batch, sequence]``.

        Raises:
            ArtifactError: the model has other inputs, or fails on these.
        """
        ...

    def close(self) -> None:
        """Free the model; the session can't be used afterwards."""
        ...


@runtime_checkable
class StreamingSession(Session, Protocol):
    """An opened model that runs several batches in parallel."""

    @property
    def streams(self) -> int:
        """Number of parallel batches, each with its share of the threads."""
        ...

    def run_all(self, batches: Iterable[Mapping[str, Array]]) -> Iterator[tuple[Array, ...]]:
        """Run many batches, several in parallel.

        Args:
            batches: batches as for :meth:`run`, possibly an endless iterator: each is read when a stream needs it.

        Yields:
            The results of :meth:`run`, in the order of the batches.

        Raises:
            ArtifactError: as :meth:`run`, after the results of the earlier batches. The session can be
                used afterwards.
        """
        ...


class Runtime(Protocol):
    """A library that runs models.

    Attributes:
        name: name in recipes and cell ids.
        files: file name in the deployment folder by supported precision.
        notes: remark on the cell's model by precision, for some cells.
        hints: supported performance hints. With ``throughput`` it opens a :class:`StreamingSession`.
    """

    name: ClassVar[str]
    files: ClassVar[Mapping[str, str]]
    notes: ClassVar[Mapping[str, str]]
    hints: ClassVar[tuple[Hint, ...]]

    def available(self) -> bool:
        """Whether its packages are installed; the error of :meth:`version` has the name of the missing one."""
        ...

    def version(self) -> str:
        """The library's version; imports it, so that the time of opening a file does not include the import.

        Raises:
            RuntimeUnavailableError: the library can't be imported, or a part is missing.
        """
        ...

    def open(self, folder: Path, precision: str, threads: int, hint: Hint = "latency") -> Session:
        """Open the file of a precision.

        Args:
            folder: the deployment.
            precision: ``fp32`` or ``int8``.
            threads: threads of one request, or shared by all streams.
            hint: one of :attr:`hints`; other hints have no effect. ``throughput`` splits the threads into streams,
                which is faster when batches run concurrently.

        Raises:
            RuntimeUnavailableError: the library is not installed, or it would compute wrong results with this file on
                this CPU.
            ArtifactError: the file is missing or damaged.
        """
        ...


def require_file(runtime: str, folder: Path, files: Mapping[str, str], precision: str) -> Path:
    """The file of a runtime for a precision, checked before the runtime opens it.

    Raises:
        ArtifactError: the deployment has no such file, the precision is unknown, or the check refuses the file.
    """
    if precision not in files:
        raise ArtifactError(f"{runtime}: expected precision {' or '.join(files)}, found {precision!r}")
    path = folder / files[precision]
    if not path.is_file():
        raise ArtifactError(
            f"{path}: {runtime} {precision} needs this file and the deployment has none; export again (with INT8, "
            f"OpenVINO or the sparse target switched on in the recipe)"
        )
    check_model_file(path)
    return path


def order_outputs(found: Sequence[str], path: Path) -> tuple[str, ...]:
    """The output names of a model in the order that sessions return them.

    Raises:
        ArtifactError: the model has the outputs of no supported task.
    """
    for names in OUTPUT_NAMES:
        if set(names) <= set(found):
            return names
    raise ArtifactError(
        f"{path}: expected outputs logits, start_logits and end_logits, or sentence_embedding; "
        f"found {', '.join(sorted(found)) or 'none'}"
    )


@dataclass(frozen=True)
class InputContract:
    """Valid inputs of a session, checked for every batch, because runtimes accept some invalid inputs without an error.

    Attributes:
        names: the model's inputs.
        path: the model file, for messages.
        longest: largest number of tokens; None if the config has no limit. OpenVINO returns wrong results for longer
            input (ONNX Runtime and PyTorch raise an error).
    """

    names: tuple[str, ...]
    path: Path
    longest: int | None

    @classmethod
    def of(cls, names: Iterable[str], path: Path) -> "InputContract":
        """The contract of a model file in a deployment, whose ``config.json`` has the longest input.

        Raises:
            ArtifactError: the config is missing or damaged.
        """
        return cls(tuple(names), path, usable_length(path.parent))

    def select(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays of a batch for the model, without token types if it has none.

        Raises:
            ArtifactError: the batch does not fit the model's inputs.
        """
        self.check(inputs)
        return {name: inputs[name] for name in self.names}

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Check a batch: names, one common shape, and length.

        Raises:
            ArtifactError: the batch does not fit the model's inputs.
        """
        if not set(self.names) <= inputs.keys() <= {*self.names, TOKEN_TYPE_IDS}:
            expected, found = ", ".join(sorted(self.names)), ", ".join(sorted(inputs))
            raise ArtifactError(f"{self.path}: expected the inputs {expected}; found {found}")
        shapes = {array.shape for array in inputs.values()}
        if len(shapes) != 1:
            found = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
            raise ArtifactError(f"{self.path}: expected all inputs as [batch, sequence] of one shape; got {found}")
        tokens = next(iter(shapes))[-1]
        if self.longest is not None and tokens > self.longest:
            raise ArtifactError(f"{self.path}: the model reads at most {self.longest} tokens; got {tokens}")


def usable_length(folder: Path) -> int | None:
    """Largest number of input tokens of a folder's model; None if the config has no limit.

    Raises:
        ArtifactError: the config is missing or damaged.
    """
    config = read_config(folder)
    try:
        return architecture_of(config).usable_length(config)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / 'config.json'}: positions that are not finite ({one_line(error)})") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The model's ``config.json``, with checked array sizes.

    Raises:
        ArtifactError: the config is missing or damaged.
    """
    path = folder / "config.json"
    try:
        config = load_json_object(read_bounded(path, _MAX_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not a readable model config: {one_line(error)}; export again") from error
    for key, (least, most) in _CONFIG_NUMBERS.items():
        value = config.get(key)
        if value is not None and not (type(value) is int and least <= value <= most):
            raise ArtifactError(f"{path}: expected {key} of {least} to {most}, found {value!r:.40}; export again")
    padding, vocabulary = config.get("pad_token_id"), config.get("vocab_size")
    if padding is not None and vocabulary is not None and padding >= vocabulary:
        raise ArtifactError(f"{path}: pad_token_id {padding} is outside the vocabulary of {vocabulary}; export again")
    return config


def as_float32(array: object) -> Array:
    """An owned, contiguous float32 copy (runtimes reuse their output buffers)."""
    return np.array(array, dtype=np.float32, order="C")
