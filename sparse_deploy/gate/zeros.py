# SPDX-License-Identifier: Apache-2.0
"""The sparsity gate: every required zero of a deployment is a zero in every measured file."""

from dataclasses import dataclass

from sparse_deploy.config.schema import Goal
from sparse_deploy.results import GateResult

# Not a goal of the recipe: every cell must always have 100 % of the required zeros.
KEPT_ZEROS = Goal(metric="sparsity", type="percent-of-baseline", value=100.0)


@dataclass(frozen=True)
class TensorZeros:
    """The required zeros of one tensor, and the number of zeros kept in one file.

    Attributes:
        name: parameter name in the PyTorch state dict.
        weights: size of the tensor.
        required: zeros that the contract demands.
        kept: number of required zeros that are zeros in the file, compared position by position.
        reason: reason why they cannot be compared, such as a missing tensor; empty if they can.
    """

    name: str
    weights: int
    required: int
    kept: int
    reason: str = ""


@dataclass(frozen=True)
class ZeroCount:
    """The required zeros of one file.

    Attributes:
        file: relative to the deployment.
        tensors: number of tensors in the contract.
        missing_in_checkpoint: zeros of the recipe that the deployment's checkpoint lacks; empty if it has all.
    """

    file: str
    tensors: tuple[TensorZeros, ...]
    missing_in_checkpoint: str = ""

    @property
    def required(self) -> int:
        """Required zeros of all tensors."""
        return sum(tensor.required for tensor in self.tensors)

    @property
    def kept(self) -> int:
        """Required zeros that are zeros in the file."""
        return sum(tensor.kept for tensor in self.tensors)


def judge_zeros(cell: str, count: ZeroCount) -> GateResult:
    """The verdict on one cell: one lost zero is a failure.

    Args:
        cell: id of the cell.
        count: the zeros of its file.

    Returns:
        A result whose values are shares of the weights of the counted tensors.
    """
    weights = sum(tensor.weights for tensor in count.tensors) or 1
    lost = [tensor for tensor in count.tensors if tensor.kept < tensor.required]
    bound = count.required / weights
    return GateResult(
        goal=KEPT_ZEROS,
        cell=cell,
        value=count.kept / weights,
        baseline=bound,
        bound=bound,
        verdict="fail" if lost or count.missing_in_checkpoint else "pass",
        explanation=_sentence(cell, count, lost),
    )


def _sentence(cell: str, count: ZeroCount, lost: list[TensorZeros]) -> str:
    if lost:
        worst = max(lost, key=lambda tensor: tensor.required - tensor.kept)
        why = f" ({worst.reason})" if worst.reason else ""
        others = f"; {len(lost) - 1} more tensors lost some" if len(lost) > 1 else ""
        return (
            f"{count.file} of {cell} has lost {count.required - count.kept:,} of {count.required:,} required zeros: "
            f"{worst.name} kept {worst.kept:,} of {worst.required:,}{why}{others}: fail."
        )
    if count.missing_in_checkpoint:
        return f"{count.file} of {cell} lacks required zeros: {count.missing_in_checkpoint}: fail."
    return (
        f"{count.file} of {cell} keeps all {count.required:,} required zeros of {len(count.tensors)} tensors "
        f"(all positions compared): pass."
    )
