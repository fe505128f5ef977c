# SPDX-License-Identifier: Apache-2.0
"""The sparsity gate: every required zero of a deployment is a zero in every measured file."""

from dataclasses import dataclass

from sparse_deploy.config.schema import Goal
from sparse_deploy.results import GateResult

# Not a goal of the recipe: 100 % of the required zeros, of every cell, always.
KEPT_ZEROS = Goal(metric="sparsity", type="percent-of-baseline", value=100.0)


@dataclass(frozen=True)
class TensorZeros:
    """The required zeros of one tensor, and how many of them one file kept.

    Attributes:
        name: parameter name in the PyTorch state dict.
        weights: size of the tensor.
        required: zeros that the contract demands.
        kept: how many of those are zeros in the file, place by place.
        reason: why they can't be compared, such as a missing tensor; empty where they can.
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
        broken_promise: how the deployment's checkpoint misses the zeros that its recipe requires; empty if it has them.
    """

    file: str
    tensors: tuple[TensorZeros, ...]
    broken_promise: str = ""

    @property
    def required(self) -> int:
        """Required zeros of all tensors."""
        return sum(tensor.required for tensor in self.tensors)

    @property
    def kept(self) -> int:
        """Required zeros that the file has."""
        return sum(tensor.kept for tensor in self.tensors)


def judge_zeros(cell: str, count: ZeroCount) -> GateResult:
    """The verdict on one cell: a single lost zero fails.

    Args:
        cell: its id.
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
        verdict="fail" if lost or count.broken_promise else "pass",
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
    if count.broken_promise:
        return f"{count.file} of {cell} lacks required zeros: {count.broken_promise}: fail."
    return (
        f"{count.file} of {cell} keeps all {count.required:,} required zeros of {len(count.tensors)} tensors "
        f"(all positions compared): pass."
    )
