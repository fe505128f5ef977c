# SPDX-License-Identifier: Apache-2.0
"""The sparsity record: one entry per prunable tensor, and two separate ratios."""

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

from sparse_deploy.sparsity.mask import mask_sha256
from sparse_deploy.sparsity.pattern import BoolArray, detect_pattern


class TensorRecord(BaseModel):
    """The record of the zeros of one tensor.

    Attributes:
        name: parameter name in the PyTorch state dict.
        shape: ``[out, in]``.
        zeros: number of zero weights stored in this file.
        required_zeros: number of required zeros (those of the source checkpoint). INT8 rounding can make ``zeros``
            larger; no stage may make it smaller.
        pattern: detected pattern, as text.
        mask_sha256: fingerprint of the required zeros.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[int, int]
    zeros: int
    required_zeros: int
    pattern: str
    mask_sha256: str

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    @property
    def zero_share(self) -> float:
        """Stored zeros divided by weights, 0.0 to 1.0."""
        return self.zeros / self.numel if self.numel else 0.0


class SparsityRecord(BaseModel):
    """All tensor records of one model file.

    Attributes:
        tensors: one record per prunable tensor.
        model_parameters: number of all parameters of the file, prunable or not; 0 if unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensors: tuple[TensorRecord, ...]
    model_parameters: int = 0

    @property
    def zeros(self) -> int:
        """Stored zeros of all recorded tensors."""
        return sum(t.zeros for t in self.tensors)

    @property
    def sparsity_of_prunable(self) -> float:
        """Zeros divided by the weights of the recorded tensors."""
        total = sum(t.numel for t in self.tensors)
        return self.zeros / total if total else 0.0

    @property
    def sparsity_of_model(self) -> float:
        """Zeros of the recorded tensors divided by all parameters of the file (including embeddings and heads)."""
        return self.zeros / self.model_parameters if self.model_parameters else 0.0


def record_masks(
    zeros: Mapping[str, BoolArray],
    required: Mapping[str, BoolArray] | None = None,
    *,
    model_parameters: int = 0,
) -> SparsityRecord:
    """Make the record of a file.

    Args:
        zeros: zero masks found in the file, ``[out, in]`` each, by parameter name.
        required: required zero masks; default: the masks in ``zeros`` (first stage).
        model_parameters: see :class:`SparsityRecord`.
    """
    required = zeros if required is None else required
    return SparsityRecord(
        tensors=tuple(
            TensorRecord(
                name=name,
                shape=(mask.shape[0], mask.shape[1]),
                zeros=int(mask.sum()),
                required_zeros=int(required[name].sum()),
                pattern=str(detect_pattern(required[name])),
                mask_sha256=mask_sha256(required[name]),
            )
            for name, mask in zeros.items()
            if name in required
        ),
        model_parameters=model_parameters,
    )


def prunable_names(names: Iterable[str], exclude: Iterable[str]) -> list[str]:
    """Names of prunable parameters: ``*.weight`` of the encoder, except those with an excluded part.

    Args:
        names: names of two-dimensional parameters.
        exclude: substrings of excluded names.
    """
    excluded = tuple(exclude)
    return [name for name in names if name.endswith(".weight") and not any(part in name for part in excluded)]
