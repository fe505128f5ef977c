# SPDX-License-Identifier: Apache-2.0
"""The Hessian of a layer's output error from the layer's inputs, and its factor for the solver.

For ``y = W x`` and the squared error of ``y`` over a text, the Hessian of each row of ``W`` is ``2/n * sum(x x^T)``,
equal for all rows (Optimal Brain Compression, arXiv 2208.11580, section 3).
"""

from dataclasses import dataclass

import torch

from sparse_deploy.errors import DataError

# Share of the mean diagonal added to the diagonal, as in SparseGPT (arXiv 2301.00774); raised if a factorization fails.
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
        """Add inputs ``[tokens, features]`` without padding."""
        self.total.addmm_(inputs.T, inputs)
        self.tokens += len(inputs)

    def mean(self) -> torch.Tensor:
        """``2/n * sum(x x^T)``, ``[features, features]``."""
        return self.total * (2.0 / max(self.tokens, 1))


@dataclass(frozen=True)
class Curvature:
    """A damped Hessian and a factor of its inverse.

    Attributes:
        hessian: ``[in, in]``, damped.
        factor: upper triangular ``U`` with ``U^T U`` equal to the inverse of ``hessian``. Row ``j`` belongs to the
            problem in which the columns before ``j`` are fixed, as in a pass from left to right.
        damping: added share of the mean diagonal.
    """

    hessian: torch.Tensor
    factor: torch.Tensor
    damping: float


def factorize(hessian: torch.Tensor, name: str) -> Curvature:
    """Damp a Hessian and factorize its inverse, in float64; the results are float32.

    Args:
        hessian: ``[in, in]``.
        name: name of the weight, for the error.

    Raises:
        DataError: all inputs are zero or NaN, or the damped matrix is singular.
    """
    diagonal = hessian.diagonal()
    if not bool(torch.isfinite(hessian).all()) or float(diagonal.mean()) <= 0.0:
        found = "only zeros" if bool((hessian == 0).all()) else "values that are not finite"
        raise DataError(
            f"{name}: expected inputs that vary with the text, found {found}; check the checkpoint's weights and the "
            f"text, or exclude the layer with --exclude"
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
        f"more varied text, or exclude the layer with --exclude"
    )
