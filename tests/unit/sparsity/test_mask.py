# SPDX-License-Identifier: Apache-2.0
"""The fingerprint depends on every bit, packing loses none, and the contract counts lost zeros exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparse_deploy.errors import ExitCode, SparsityLostError
from sparse_deploy.sparsity.mask import assert_zeros_kept, mask_sha256, pack_mask, unpack_mask

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=13))
FEW = settings(max_examples=60, deadline=None)


@given(mask=MASKS, data=st.data())
@FEW
def test_one_flipped_bit_changes_the_fingerprint(mask, data):
    flipped = mask.copy()
    index = tuple(data.draw(st.integers(0, side - 1)) for side in mask.shape)
    flipped[index] = not flipped[index]
    assert mask_sha256(flipped) != mask_sha256(mask)


@given(mask=MASKS)
@FEW
def test_fingerprint_depends_on_shape_and_not_on_memory_layout(mask):
    assert mask_sha256(np.asfortranarray(mask)) == mask_sha256(mask)
    if mask.shape[0] != mask.shape[1]:
        assert mask_sha256(mask.reshape(mask.shape[::-1])) != mask_sha256(mask)


@given(mask=MASKS)
@FEW
def test_packing_is_lossless_and_eightfold(mask):
    packed = pack_mask(mask)
    assert packed.nbytes == -(-mask.size // 8)
    np.testing.assert_array_equal(unpack_mask(packed, mask.shape), mask)


@given(required=MASKS, data=st.data())
@FEW
def test_contract_counts_revived_weights(required, data):
    found = data.draw(hnp.arrays(np.bool_, required.shape))
    before, kept = int(required.sum()), int((required & found).sum())
    if kept == before:
        assert_zeros_kept("export", {"w": required}, {"w": found})
        return
    with pytest.raises(SparsityLostError) as caught:
        assert_zeros_kept("export", {"w": required}, {"w": found})
    assert (caught.value.stage, caught.value.tensor) == ("export", "w")
    assert (caught.value.before, caught.value.after) == (before, kept)
    assert str(before - kept) in str(caught.value)


def test_extra_zeros_are_welcome():
    required = np.eye(4, dtype=bool)
    assert_zeros_kept("int8", {"w": required}, {"w": np.ones((4, 4), bool), "another": required})


@pytest.mark.parametrize("found", [{}, {"w": np.ones((2, 8), bool)}], ids=["missing", "other shape"])
def test_missing_or_reshaped_tensor_counts_as_all_lost(found):
    with pytest.raises(SparsityLostError) as caught:
        assert_zeros_kept("export", {"w": np.ones((4, 4), bool)}, found)
    assert (caught.value.before, caught.value.after) == (16, 0)
    assert caught.value.exit_code is ExitCode.BAD_ARTIFACT


def test_dense_tensor_may_disappear():
    assert_zeros_kept("export", {"w": np.zeros((4, 4), bool)}, {})
