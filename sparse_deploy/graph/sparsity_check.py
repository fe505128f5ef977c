# SPDX-License-Identifier: Apache-2.0
"""Base of graph passes that check that no zero is lost, and the function that runs passes."""

import onnx_ir as ir

from sparse_deploy.errors import ExportError, SparseDeployError
from sparse_deploy.graph.weights import zero_masks
from sparse_deploy.sparsity.mask import assert_zeros_kept
from sparse_deploy.sparsity.pattern import BoolArray


class SparsityKeepingPass(ir.passes.InPlacePass):
    """Base of in-place passes that ensure that every zero weight stays zero.

    The names of weights must not change either.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, BoolArray] = {}

    def requires(self, model: ir.Model) -> None:
        """Record the zeros."""
        self._before = zero_masks(model)

    def ensures(self, model: ir.Model) -> None:
        """Compare the zeros.

        Raises:
            SparsityLostError: a weight or a zero is missing. onnx_ir wraps it; :func:`run_passes` unwraps it.
        """
        assert_zeros_kept(type(self).__name__, self._before, zero_masks(model))


def run_passes(model: ir.Model, *passes: ir.passes.PassBase) -> ir.Model:
    """Run passes in order.

    Raises:
        SparseDeployError: an error of a pass, unwrapped from onnx_ir's exceptions.
        ExportError: a pass failed in another way.
    """
    for one in passes:
        try:
            model = one(model).model
        except (ir.passes.InvariantError, ir.passes.PassError) as error:
            raise _cause(error, type(one).__name__) from error
    return model


def _cause(error: BaseException, name: str) -> SparseDeployError:
    """The SparseDeployError in a chain, or the innermost one's text as an ExportError."""
    chain = [error]
    while (inner := chain[-1].__cause__) is not None:
        chain.append(inner)
    for link in chain:
        if isinstance(link, SparseDeployError):
            return link
    reason = " ".join(str(chain[-1]).split())[:200]
    return ExportError(f"graph pass {name} failed: {reason}. Report this with the recipe.")
