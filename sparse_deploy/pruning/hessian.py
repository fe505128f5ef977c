# SPDX-License-Identifier: Apache-2.0
"""The Hessian of a layer's output error from the layer's inputs, and its factor for the solver.

For ``y = W x`` and the squared error of ``y`` over a text, the Hessian of each row of ``W`` is ``2/n * sum(x x^T)``,
the same for all rows (Optimal Brain Compression, arXiv 2208.11580, section 3).
"""

from dataclasses import dataclass

import torch

from sparse_deploy.errors import DataError

# Of the mean of the diagonal, added to it: SparseGPT's (arXiv 2301.00774). Raised where the factorization fails.
DAMPING = 0.01
_DAMPING_STEPS = (1, 10, 100)


class HessianSum:
    """Accumulates ``sum(x x^T)`` over batches, in float32.

    Args:
        features: width of the layer's input.
    """

    def __init__(self, features: int) -> None:
        self.total = torch.zeros(features, features)
        self.tokens = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Add inputs ``[tokens, features]``; padding must have been left out."""
        self.total.addmm_(inputs.T, inputs)
        self.tokens += len(inputs)

    def mean(self) -> torch.Tensor:
        """``2/n * sum(x x^T)``, ``[features, features]``."""
        return self.total * (2.0 / max(self.tokens, 1))


@dataclass(frozen=True)
class Curvature:
    """A damped Hessian and its inverse's factor.

    Attributes:
        hessian: ``[in, in]``, damped.
        factor: upper triangular ``U`` with ``U^T U`` equal to the inverse of ``hessian``. Row ``j`` belongs to the
            problem in which the columns before ``j`` are fixed, as in a pass from left to right.
        damping: share of the mean diagonal that was added.
    """

    hessian: torch.Tensor
    factor: torch.Tensor
    damping: float


def factorize(hessian: torch.Tensor, name: str) -> Curvature:
    """Damp a Hessian and factorize its inverse, in float64; the results are float32.

    Args:
        hessian: ``[in, in]``.
        name: of the weight, for the error.

    Raises:
        DataError: the layer saw nothing but zeros or not-a-number, or the matrix is singular in spite of the damping.
    """
    diagonal = hessian.diagonal()
    if not bool(torch.isfinite(hessian).all()) or float(diagonal.mean()) <= 0.0:
        found = "only zeros" if bool((hessian == 0).all()) else "values that are not finite"
        raise DataError(
            f"{name}: expected inputs that vary with the text, found {found}; check the checkpoint's weights and the "
            f"text, or leave the layer out with --exclude"
        )
    for step in _DAMPING_STEPS:
        damping = DAMPING * step
        damped = hessian.double()
        damped.diagonal().add_(damping * float(diagonal.mean()))
        lower, failed = torch.linalg.cholesky_ex(damped)
        if int(failed) == 0:
            inverse = torch.cholesky_inverse(lower)
            factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if int(failed) == 0:
                return Curvature(damped.float(), factor.float(), damping)
    raise DataError(
        f"{name}: the Hessian of its inputs is singular, even with {damping:.0%} of its mean diagonal added; give "
        f"more varied text, or leave the layer out with --exclude"
    )
