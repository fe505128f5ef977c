# SPDX-License-Identifier: Apache-2.0
"""Zeros made by magnitude have the required pattern and share."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import demo_recipe

from sparse_deploy.checkpoint import zero_masks
from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.errors import ConfigError
from sparse_deploy.pruning.magnitude import magnitude_masks
from sparse_deploy.sparsity.pattern import SparsityPattern, detect_pattern, holds_pattern
from sparse_deploy.stages.finetune import finetune
from sparse_deploy.training.pruning_schedule import cubic_sparsity

PATTERNS = [("unstructured", 0.7), ("1:2", 0.5), ("2:4", 0.5), ("4x1", 0.8), ("1x4", 0.8)]


def random_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(64, 32, generator=generator), "b": 3 * torch.randn(32, 64, generator=generator)}


def share(masks: dict) -> float:
    return sum(m.sum() for m in masks.values()) / sum(m.size for m in masks.values())


@pytest.mark.parametrize(("pattern", "target"), PATTERNS)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_hold_pattern_and_share(pattern, target, scope):
    masks = magnitude_masks(random_weights(), SparsityPattern.parse(pattern), target, scope)
    assert share(masks) == pytest.approx(target, abs=0.002)
    if scope == "layer":
        assert all(m.mean() == pytest.approx(target, abs=0.003) for m in masks.values())
    for mask in masks.values():
        assert holds_pattern(mask, SparsityPattern.parse(pattern)) or scope == "global"


def test_layer_masks_remove_the_smallest():
    weights = random_weights()
    mask = magnitude_masks(weights, SparsityPattern.parse("unstructured"), 0.7, "layer")["a"]
    magnitude = weights["a"].abs().numpy()
    assert magnitude[mask].max() <= magnitude[~mask].min()


def test_one_of_two_keeps_the_larger():
    weights = {"w": torch.tensor([[1.0, -2.0, 0.5, 0.1]])}
    mask = magnitude_masks(weights, SparsityPattern.parse("1:2"), 0.5, "layer")["w"]
    assert mask.tolist() == [[True, False, False, True]]


def test_global_scope_takes_more_from_the_smaller_tensor():
    masks = magnitude_masks(random_weights(), SparsityPattern.parse("unstructured"), 0.5, "global")
    assert masks["a"].mean() > masks["b"].mean() + 0.2


def test_shape_that_does_not_tile_is_refused():
    with pytest.raises(ConfigError, match="can't be tiled"):
        magnitude_masks({"w": torch.ones(6, 8)}, SparsityPattern.parse("4x1"), 0.5, "layer")


@settings(max_examples=40, deadline=None)
@given(first=st.floats(0.05, 0.6), more=st.floats(0.01, 0.3), pattern=st.sampled_from(PATTERNS))
def test_zeros_only_grow_along_the_schedule(first, more, pattern):
    weights = random_weights()
    kind = SparsityPattern.parse(pattern[0])
    limit = pattern[1] if ":" in pattern[0] else 0.95
    early = magnitude_masks(weights, kind, min(first, limit), "layer")
    for name, mask in early.items():
        weights[name][torch.from_numpy(mask)] = 0.0
    late = magnitude_masks(weights, kind, min(first + more, limit), "layer")
    assert all((early[n] <= late[n]).all() for n in early)


def test_cubic_schedule_has_its_corner_points():
    assert cubic_sparsity(0.0, begin=0.1, end=0.6, target=0.8) == 0.0
    assert cubic_sparsity(0.1, begin=0.1, end=0.6, target=0.8) == 0.0
    assert cubic_sparsity(0.35, begin=0.1, end=0.6, target=0.8) == pytest.approx(0.8 * (1 - 0.5**3))
    assert cubic_sparsity(0.6, begin=0.1, end=0.6, target=0.8) == 0.8
    assert cubic_sparsity(0.0, begin=0.0, end=0.0, target=0.8) == 0.8


@pytest.mark.parametrize(
    ("schedule", "method", "pattern", "target"),
    [
        *(("gradual", "magnitude", *pattern) for pattern in PATTERNS),
        *(("one-shot", "magnitude", *pattern) for pattern in PATTERNS[:2]),
        *(("one-shot", "second-order", *pattern) for pattern in PATTERNS[1::3]),
    ],
)
def test_fine_tuning_makes_and_locks_the_pattern(tiny_encoder, tmp_path, pattern, target, schedule, method):
    keys = {"schedule": schedule, "method": method, "frequency": 2, "method_samples": 64}
    section = {"mode": "prune", "pattern": pattern, "target": target, **keys}
    manifest = finetune(demo_recipe(tiny_encoder, sparsity=section), tmp_path / "out")
    record = manifest.sparsity["model.safetensors"]
    assert record.sparsity_of_prunable == pytest.approx(target, abs=0.01)
    for mask in zero_masks(tmp_path / "out", DEFAULT_EXCLUDE).values():
        assert str(detect_pattern(mask)).removeprefix("block ") == pattern or pattern == "2:4"
        assert holds_pattern(mask, SparsityPattern.parse(pattern))
    assert len(record.tensors) == 12
    assert np.isfinite(manifest.details["metrics"]["accuracy"])


def test_second_order_prunes_along_the_schedule(tiny_encoder, tmp_path):
    keys = {"method": "second-order", "frequency": 3, "method_samples": 64}
    section = {"mode": "prune", "pattern": "unstructured", "target": 0.7, **keys}
    manifest = finetune(demo_recipe(tiny_encoder, sparsity=section), tmp_path / "out")
    assert manifest.sparsity["model.safetensors"].sparsity_of_prunable == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "one-shot", "schedule": "gradual"}, "contradicts schedule gradual"),
        ({"mode": "prune", "method": "second-order"}, "use schedule one-shot"),
        ({"mode": "prune", "method": "second-order", "schedule": "one-shot", "scope": "global"}, "use scope layer"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(tiny_encoder, changes, words):
    with pytest.raises(ConfigError, match=words):
        demo_recipe(tiny_encoder, sparsity={"pattern": "1:2", "target": 0.5, **changes})


def test_the_former_mode_is_read_as_a_schedule(tiny_encoder):
    sparsity = demo_recipe(tiny_encoder, sparsity={"mode": "one-shot", "pattern": "1:2", "target": 0.5}).sparsity
    assert (sparsity.mode.value, sparsity.schedule, sparsity.method) == ("prune", "one-shot", "magnitude")
