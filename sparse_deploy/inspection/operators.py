# SPDX-License-Identifier: Apache-2.0
"""The choice of the sparse operators for each tensor on this CPU, read from the compiled kernels."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from sparse_deploy.sparsity.packing import MOST_INPUTS, encode
from sparse_deploy.sparsity.pattern import BoolArray


class TensorDecision(BaseModel):
    """The kernel of one tensor.

    Attributes:
        name: parameter name.
        kernel: the kernel chosen: ``dense``, ``unstructured``, ``one_of_two`` (1:2), ``block_4x1``, ``block_1x4``;
            the name may end with the shape of its windows.
        pattern: the pattern that the kernels found.
        zero_share: zeros divided by all weights.
        fill: multiply-add slots of the packed form divided by those of the dense form.
        cost: predicted time divided by that of the dense INT8 kernel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kernel: str
    pattern: str
    zero_share: float
    fill: float
    cost: float


class OperatorDecisions(BaseModel):
    """The decisions on a model.

    Attributes:
        instruction_set: instruction set of the kernels on this CPU.
        tensors: one decision per tensor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction_set: str
    tensors: tuple[TensorDecision, ...]


def decide(masks: Mapping[str, BoolArray]) -> OperatorDecisions:
    """Pack each tensor and read the layout; it depends only on the positions of the zeros.

    Args:
        masks: zero masks ``[out, in]``, by parameter name.

    Raises:
        RuntimeUnavailableError: the kernels were not compiled; the message has the reason.
    """
    from sparse_deploy.kernels.loader import instruction_set
    from sparse_deploy.kernels.native import Weight

    instructions = instruction_set().name
    decisions = []
    for name, mask in masks.items():
        if mask.shape[1] > MOST_INPUTS:  # export keeps the standard operator
            share = float(mask.mean())
            decisions.append(
                TensorDecision(name=name, kernel="dense", pattern="too many inputs", zero_share=share, fill=1, cost=1)
            )
            continue
        found = Weight(encode((~mask).astype(np.int8))).describe()
        decisions.append(
            TensorDecision(
                name=name,
                kernel=found.layout,
                pattern=found.pattern,
                zero_share=float(mask.mean()),
                fill=found.fill,
                cost=found.cost,
            )
        )
    return OperatorDecisions(instruction_set=instructions, tensors=tuple(decisions))


def is_dense(kernel: str) -> bool:
    """Whether a kernel also multiplies the zeros."""
    return kernel.startswith("dense")


def grouped(tensors: Sequence[TensorDecision]) -> dict[tuple[str, str], list[TensorDecision]]:
    """Decisions by role and kernel: one group for the query matrices of all layers, if all got one kernel."""
    groups: dict[tuple[str, str], list[TensorDecision]] = {}
    for tensor in tensors:
        groups.setdefault((_role(tensor.name), tensor.kernel), []).append(tensor)
    return groups


def _role(name: str) -> str:
    """The name after the layer's number: ``attention.self.query``."""
    return re.split(r"\.\d+\.", name)[-1].removesuffix(".weight")
