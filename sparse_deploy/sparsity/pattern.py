# SPDX-License-Identifier: Apache-2.0
"""Sparsity patterns: notation, detection and checks.

Every shape is that of ``torch.nn.Linear.weight``: ``[out_features, in_features]``. A block ``4x1`` is four outputs by
one input. N:M keeps at most N of every M consecutive inputs (N **kept**, the convention of NVIDIA and SparseML;
Neural Compressor's N is the number of pruned inputs).
"""

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.errors import ConfigError

BoolArray = NDArray[np.bool_]

# Below this share, zeros are accidental results of training or of INT8 rounding, not a pattern.
DENSE_BELOW = 0.05
# INT8 rounds some kept weights to zero, so the zeros of a block file are not only in complete blocks. Complete blocks
# also occur by chance: of the zeros of a random mask with zero share d, the share d is in complete 2x1 blocks, and
# the same share of a random 4x1 mask is in complete 8x1 blocks. The bound is at three quarters of the way from d to 1.
WHOLE_BLOCK_MARGIN = 0.25
# N:M must not be a coincidence: with randomly distributed zeros, at least this expected number of groups would violate
# it (the probability of a coincidence is then below exp(-10)).
FEWEST_CHANCE_VIOLATIONS = 10.0

CANDIDATE_BLOCKS = ((16, 1), (1, 16), (8, 1), (1, 8), (4, 4), (4, 1), (1, 4), (2, 2), (2, 1), (1, 2))
CANDIDATE_NM = ((1, 4), (1, 2), (2, 4), (4, 8))


class PatternKind(StrEnum):
    """The closed set of pattern families."""

    DENSE = "dense"
    UNSTRUCTURED = "unstructured"
    N_M = "n:m"
    BLOCK = "block"


@dataclass(frozen=True)
class SparsityPattern:
    """One pattern. ``n``/``m`` are set for N:M only, ``block`` (``(out, in)``) for blocks only."""

    kind: PatternKind
    n: int = 0
    m: int = 0
    block: tuple[int, int] = (1, 1)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``dense``, ``unstructured``, ``1:2`` or ``4x1`` (out x in; ``block 4x1`` also).

        Raises:
            ConfigError: the text is none of these.
        """
        word = text.strip().lower().removeprefix("block").strip()
        if word in (PatternKind.DENSE, PatternKind.UNSTRUCTURED):
            return cls(PatternKind(word))
        if match := re.fullmatch(r"(\d+):(\d+)", word):
            n, m = int(match[1]), int(match[2])
            if 0 < n < m:
                return cls(PatternKind.N_M, n=n, m=m)
        if match := re.fullmatch(r"(\d+)x(\d+)", word):
            block = int(match[1]), int(match[2])
            if min(block) > 0 and block != (1, 1):
                return cls(PatternKind.BLOCK, block=block)
        raise ConfigError(
            f"sparsity pattern: expected dense, unstructured, N:M such as 1:2 (N kept, N < M), or a block OUTxIN such "
            f"as 4x1; found {text!r}"
        )

    def __str__(self) -> str:
        if self.kind is PatternKind.N_M:
            return f"{self.n}:{self.m}"
        if self.kind is PatternKind.BLOCK:
            return f"block {self.block[0]}x{self.block[1]}"
        return self.kind.value


DENSE = SparsityPattern(PatternKind.DENSE)
UNSTRUCTURED = SparsityPattern(PatternKind.UNSTRUCTURED)


def whole_block_share(zeros: BoolArray, block: tuple[int, int]) -> float:
    """Share of all zeros that are in blocks of zeros only.

    Args:
        zeros: ``[out, in]``, true where the weight is zero.
        block: ``(out, in)``.

    Returns:
        0.0 if the block does not divide the shape or there are no zeros.
    """
    rows, columns = zeros.shape
    height, width = block
    if rows % height or columns % width:
        return 0.0
    total = int(zeros.sum())
    if not total:
        return 0.0
    tiles = zeros.reshape(rows // height, height, columns // width, width)
    return int(tiles.all(axis=(1, 3)).sum()) * height * width / total


def keeps_n_of_m(zeros: BoolArray, n: int, m: int) -> bool:
    """Whether every ``m`` consecutive inputs have at most ``n`` non-zero weights."""
    rows, columns = zeros.shape
    if columns % m:
        return False
    kept = m - zeros.reshape(rows, columns // m, m).sum(axis=2)
    return bool((kept <= n).all())


def is_block_sparse(zeros: BoolArray, block: tuple[int, int]) -> bool:
    """Whether the zeros are in complete blocks, clearly more often than by chance."""
    zero_share = float(zeros.mean()) if zeros.size else 0.0
    return whole_block_share(zeros, block) >= 1 - WHOLE_BLOCK_MARGIN * (1 - zero_share)


def chance_violations(zeros: BoolArray, n: int, m: int) -> float:
    """Expected number of groups of ``m`` with more than ``n`` kept weights, for randomly distributed zeros."""
    kept = 1 - float(zeros.mean())
    too_many = sum(math.comb(m, k) * kept**k * (1 - kept) ** (m - k) for k in range(n + 1, m + 1))
    return too_many * zeros.size / m


def detect_pattern(zeros: BoolArray) -> SparsityPattern:
    """The most structured pattern of a tensor's zeros.

    The largest block is preferred, then the sparsest N:M, then ``unstructured``.

    Args:
        zeros: ``[out, in]``, true where the weight is zero.
    """
    if zeros.ndim != 2 or not zeros.size or float(zeros.mean()) < DENSE_BELOW:
        return DENSE
    for block in CANDIDATE_BLOCKS:
        if is_block_sparse(zeros, block):
            return SparsityPattern(PatternKind.BLOCK, block=block)
    for n, m in CANDIDATE_NM:
        if keeps_n_of_m(zeros, n, m) and chance_violations(zeros, n, m) >= FEWEST_CHANCE_VIOLATIONS:
            return SparsityPattern(PatternKind.N_M, n=n, m=m)
    return UNSTRUCTURED


def holds_pattern(zeros: BoolArray, pattern: SparsityPattern) -> bool:
    """Whether the zeros satisfy a required pattern. Zeros with more structure also satisfy it."""
    if pattern.kind is PatternKind.DENSE:
        return True
    if pattern.kind is PatternKind.N_M:
        return keeps_n_of_m(zeros, pattern.n, pattern.m)
    if pattern.kind is PatternKind.BLOCK:
        return is_block_sparse(zeros, pattern.block)
    return float(zeros.mean()) >= DENSE_BELOW
