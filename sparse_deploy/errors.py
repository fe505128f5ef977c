# SPDX-License-Identifier: Apache-2.0
"""The base class of all errors of this package, and the exit code of each kind of error.

A message gives the expected value, the value found and the remedy. Each exception also has these facts as fields, so
that a caller need not parse the message.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes; the table in ``docs/cli.md`` is generated from this enum."""

    OK = 0
    BUG = 1
    USAGE = 2
    GATE_FAILED = 3
    INCONCLUSIVE = 4
    BAD_ARTIFACT = 5
    INTERRUPTED = 130


class SparseDeployError(Exception):
    """Base class of all errors that this package raises.

    Attributes:
        exit_code: exit code of the command line for this error.
    """

    exit_code: ExitCode = ExitCode.USAGE


class ConfigError(SparseDeployError):
    """A recipe, an override or an option is wrong."""


class DataError(SparseDeployError):
    """A data set is missing, unreadable, or has unusable rows."""


class RuntimeUnavailableError(SparseDeployError):
    """A requested runtime is not installed or can't open this kind of file."""


class CheckpointError(SparseDeployError):
    """A checkpoint folder is missing a part, damaged, or unsafe to load."""

    exit_code = ExitCode.BAD_ARTIFACT


class ArtifactError(SparseDeployError):
    """An artifact folder is unfinished, altered, or could not be written."""

    exit_code = ExitCode.BAD_ARTIFACT


class ExportError(SparseDeployError):
    """A model could not be turned into a portable file."""

    exit_code = ExitCode.BAD_ARTIFACT


class QuantizationError(SparseDeployError):
    """INT8 conversion failed or its result violates a requirement."""

    exit_code = ExitCode.BAD_ARTIFACT


class ParityError(SparseDeployError):
    """The outputs of an exported model differ from its PyTorch source.

    Attributes:
        worst: largest absolute difference of any output.
        tolerance: the allowed difference.
    """

    exit_code = ExitCode.BAD_ARTIFACT

    def __init__(self, message: str, *, worst: float, tolerance: float) -> None:
        super().__init__(message)
        self.worst = worst
        self.tolerance = tolerance


class SparsityError(SparseDeployError):
    """A model does not have the required zeros."""

    exit_code = ExitCode.BAD_ARTIFACT


class PatternMismatchError(SparsityError):
    """A tensor does not have the sparsity pattern that the recipe requires.

    Attributes:
        tensor: parameter name.
        expected: the required pattern, as text.
        found: the detected pattern and zero share, as text.
    """

    def __init__(self, tensor: str, expected: str, found: str) -> None:
        super().__init__(
            f"{tensor}: the recipe requires {expected}, the checkpoint has {found}. Use a checkpoint with that "
            f"pattern, correct sparsity.pattern in the recipe, or make it with sparsity.mode: prune."
        )
        self.tensor = tensor
        self.expected = expected
        self.found = found


class SparsityLostError(SparsityError):
    """A stage turned required zeros into other values.

    Attributes:
        stage: the stage after which the loss was found.
        tensor: parameter name.
        before: number of required zeros.
        after: number of required zeros that are still zero.
    """

    def __init__(self, stage: str, tensor: str, before: int, after: int) -> None:
        super().__init__(
            f"{stage}: {tensor} had {before} required zeros and kept {after}; {before - after} zeros were "
            f"lost. Nothing was written. Report this with the recipe, or exclude the tensor with sparsity.exclude."
        )
        self.stage = stage
        self.tensor = tensor
        self.before = before
        self.after = after


class GateFailure(SparseDeployError):  # noqa: N818 - the name in the documentation and in users' code
    """A measured model misses a goal of its recipe."""

    exit_code = ExitCode.GATE_FAILED


class InconclusiveError(SparseDeployError):
    """A measurement was too unstable, or a sample too small, for a verdict."""

    exit_code = ExitCode.INCONCLUSIVE


class WorkerError(SparseDeployError):
    """The process that measured a cell ended or hung, so there is no figure.

    Attributes:
        cell: id of the cell.
    """

    exit_code = ExitCode.INCONCLUSIVE

    def __init__(self, cell: str, reason: str) -> None:
        super().__init__(f"{cell}: the measurement process {reason}. Run bench again, or exclude the cell.")
        self.cell = cell


def one_line(error: BaseException, length: int = 300) -> str:
    """The message of another library on one line, shortened; the error's class if the message is empty."""
    return " ".join(str(error).split())[:length] or type(error).__name__
