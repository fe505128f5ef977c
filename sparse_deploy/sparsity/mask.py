# SPDX-License-Identifier: Apache-2.0
"""Masks: the required zeros of a tensor, their fingerprint, and the check that they are still zeros.

A mask here is the *zero* mask: ``[out, in]`` booleans, true where the weight must be zero.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.errors import SparsityLostError
from sparse_deploy.sparsity.pattern import BoolArray


def mask_sha256(zeros: BoolArray) -> str:
    """Fingerprint of a mask: SHA-256 over its shape and its bits in row-major order (``numpy.packbits``)."""
    digest = hashlib.sha256(repr(tuple(zeros.shape)).encode())
    digest.update(np.packbits(zeros, axis=None).tobytes())
    return digest.hexdigest()


def pack_mask(zeros: BoolArray) -> NDArray[np.uint8]:
    """The mask as bytes, eight weights each; :func:`unpack_mask` undoes it."""
    return np.packbits(zeros, axis=None)


def unpack_mask(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> BoolArray:
    """The mask of the given shape from :func:`pack_mask`'s bytes."""
    bits = np.unpackbits(packed, count=int(np.prod(shape)))
    return bits.astype(np.bool_).reshape(shape)


def assert_zeros_kept(stage: str, required: Mapping[str, BoolArray], found: Mapping[str, BoolArray]) -> None:
    """Check the sparsity contract: every required zero of every tensor is still a zero.

    Args:
        stage: name of the stage that has just run, for the error.
        required: zero masks before the stage, by parameter name.
        found: zero masks after it.

    Raises:
        SparsityLostError: a tensor is missing, has another shape, or lost a required zero.
    """
    for name, before in required.items():
        count = int(before.sum())
        if not count:
            continue
        after = found.get(name)
        if after is None or after.shape != before.shape:
            raise SparsityLostError(stage, name, before=count, after=0)
        kept = int((before & after).sum())
        if kept != count:
            raise SparsityLostError(stage, name, before=count, after=kept)
