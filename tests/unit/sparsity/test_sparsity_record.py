# SPDX-License-Identifier: Apache-2.0
"""The record separates required from stored zeros, and the two ratios from each other."""

import numpy as np
import pytest

from sparse_deploy.sparsity.mask import mask_sha256
from sparse_deploy.sparsity.statistics import SparsityRecord, TensorRecord, prunable_names, record_masks


def masks():
    rng = np.random.default_rng(0)
    return {"a.weight": rng.random((64, 64)) < 0.7, "b.weight": rng.random((32, 64)) < 0.7}


def test_first_record_requires_the_zeros_it_finds():
    found = masks()
    record = record_masks(found, model_parameters=100_000)
    first = record.tensors[0]
    assert (first.name, first.shape, first.pattern) == ("a.weight", (64, 64), "unstructured")
    assert first.zeros == first.required_zeros == int(found["a.weight"].sum())
    assert first.mask_sha256 == mask_sha256(found["a.weight"])


def test_rounded_zeros_are_stored_and_not_required():
    required = masks()
    stored = {name: mask | (np.arange(64) == 0) for name, mask in required.items()}
    record = record_masks(stored, required)
    for tensor in record.tensors:
        assert tensor.zeros == stored[tensor.name].sum() > tensor.required_zeros == required[tensor.name].sum()
        assert tensor.mask_sha256 == mask_sha256(required[tensor.name])


def test_tensor_that_the_contract_does_not_know_is_left_out():
    found = masks()
    assert [t.name for t in record_masks(found, {"b.weight": found["b.weight"]}).tensors] == ["b.weight"]


def test_two_ratios():
    found = masks()
    record = record_masks(found, model_parameters=24_576)
    zeros = sum(int(mask.sum()) for mask in found.values())
    assert record.zeros == zeros
    assert record.sparsity_of_prunable == pytest.approx(zeros / (64 * 64 + 32 * 64))
    assert record.sparsity_of_model == pytest.approx(zeros / 24_576)
    assert record_masks(found).sparsity_of_model == 0.0
    assert SparsityRecord(tensors=()).sparsity_of_prunable == 0.0


def test_record_survives_json():
    record = record_masks(masks(), model_parameters=7)
    assert SparsityRecord.model_validate_json(record.model_dump_json()) == record


def test_zero_share_of_a_tensor():
    tensor = TensorRecord(name="w", shape=(4, 5), zeros=5, required_zeros=5, pattern="unstructured", mask_sha256="")
    assert (tensor.numel, tensor.zero_share) == (20, 0.25)
    assert tensor.model_copy(update={"shape": (0, 5), "zeros": 0}).zero_share == 0.0


def test_prunable_names():
    names = ["bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.dense.bias",
             "bert.embeddings.word_embeddings.weight", "classifier.weight"]  # fmt: skip
    assert prunable_names(names, ("embeddings", "classifier")) == names[:1]
    assert prunable_names(names, ()) == [names[0], names[2], names[3]]
