# SPDX-License-Identifier: Apache-2.0
"""Pruned weights stay exactly zero under everything a Trainer does to them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoint import demo_recipe
from transformers import AutoModelForSequenceClassification, TrainerCallback

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.checkpoint import zero_masks
from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.data.tasks import TaskKind, get_task
from sparse_deploy.errors import CheckpointError, PatternMismatchError, SparsityError, SparsityLostError
from sparse_deploy.evaluation.accuracy import load_validation
from sparse_deploy.modeling import load_finetuned
from sparse_deploy.pruning.method import prunable_parameters, zero_masks_of
from sparse_deploy.stages import finetune as stage
from sparse_deploy.training import phases
from sparse_deploy.training import trainer as trainer_module
from sparse_deploy.training.mask_lock import MaskLock, load_masks


def masks_equal(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[n], theirs[n]) for n in ours)


def encoder_masks(folder: Path) -> dict:
    """Masks by name without the model prefix, so that an encoder and a classifier compare."""
    return {n.removeprefix("bert."): m for n, m in zero_masks(folder, DEFAULT_EXCLUDE).items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"gradient_accumulation_steps": 3},
        {"max_grad_norm": 0.01},
        {"weight_decay": 0.9, "learning_rate": 0.05},
    ],
    ids=["adamw", "bf16", "accumulation", "clipping", "strong decay"],
)
def test_zeros_of_the_source_are_the_zeros_of_the_result(sparse_encoder, tmp_path, changes):
    recipe = demo_recipe(sparse_encoder)
    recipe = recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update=changes)})
    manifest = stage.finetune(recipe, tmp_path / "out")
    before, after = encoder_masks(sparse_encoder), encoder_masks(tmp_path / "out")
    assert masks_equal(before, after)
    assert 0.69 < manifest.sparsity["model.safetensors"].sparsity_of_prunable < 0.71
    assert not (tmp_path / "out.training").exists()


def test_metrics_of_a_bf16_run_are_those_of_the_saved_fp32_model(sparse_encoder, tmp_path):
    recipe = demo_recipe(sparse_encoder)
    recipe = recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update={"precision": "bf16"})})
    metrics = stage.finetune(recipe, tmp_path / "out").details["metrics"]
    saved = load_finetuned(tmp_path / "out", TaskKind.CLASSIFICATION)
    validation = load_validation(get_task("demo"), recipe.data, tmp_path / "out", None)
    again = stage.evaluate(saved, validation, get_task("demo"), recipe)
    assert metrics["loss"] == pytest.approx(again["loss"], abs=1e-6)


def test_live_weights_do_move(sparse_encoder, trained_checkpoint):
    before = load_file(sparse_encoder / "model.safetensors")["encoder.layer.0.attention.self.query.weight"]
    after = load_file(trained_checkpoint / "model.safetensors")["bert.encoder.layer.0.attention.self.query.weight"]
    assert (before != after).float().mean() > 0.29


def test_the_result_is_a_plain_checkpoint(trained_checkpoint):
    model, info = AutoModelForSequenceClassification.from_pretrained(trained_checkpoint, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert load_manifest(trained_checkpoint, "checkpoint").task == "demo"


def test_gradient_of_pruned_weights_does_not_count_in_clipping(sparse_encoder):
    model = AutoModelForSequenceClassification.from_pretrained(sparse_encoder)
    parameters = prunable_parameters(model, DEFAULT_EXCLUDE)
    lock = MaskLock(parameters, zero_masks_of(parameters))
    lock.hook_gradients()
    model(input_ids=torch.tensor([[2, 7, 9, 3]]), labels=torch.tensor([1])).loss.backward()
    for name, parameter in parameters.items():
        assert not parameter.grad[torch.from_numpy(lock.zeros[name])].any()
        assert parameter.grad.any()


def test_a_revived_weight_ends_the_run(sparse_encoder, tmp_path, monkeypatch):
    class Reviver(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 5:
                weight = model.bert.encoder.layer[1].output.dense.weight
                weight.data[weight.data == 0] = 1e-9

    original = trainer_module.train
    monkeypatch.setattr(phases, "train", lambda *a, **k: original(*a, **k, extra_callbacks=[Reviver()]))
    with pytest.raises(SparsityLostError) as caught:
        stage.finetune(demo_recipe(sparse_encoder), tmp_path / "out")
    assert caught.value.tensor == "bert.encoder.layer.1.output.dense.weight"
    assert caught.value.after < caught.value.before
    assert not (tmp_path / "out").exists()


def test_nan_counts_as_moved(sparse_encoder):
    model = AutoModelForSequenceClassification.from_pretrained(sparse_encoder)
    parameters = prunable_parameters(model, DEFAULT_EXCLUDE)
    lock = MaskLock(parameters, zero_masks_of(parameters))
    next(iter(parameters.values())).data.fill_(float("nan"))
    with pytest.raises(SparsityLostError):
        lock.verify("test")


def test_promise_is_checked_before_training(tiny_encoder, sparse_encoder, tmp_path):
    with pytest.raises(PatternMismatchError, match="requires unstructured"):
        stage.finetune(demo_recipe(tiny_encoder), tmp_path / "a")
    with pytest.raises(PatternMismatchError, match="requires 1:2"):
        stage.finetune(
            demo_recipe(sparse_encoder, sparsity={"mode": "lock", "pattern": "1:2", "target": 0.5}), tmp_path / "b"
        )
    with pytest.raises(SparsityError, match=r"requires 90\.0%"):
        stage.finetune(
            demo_recipe(sparse_encoder, sparsity={"mode": "lock", "pattern": "unstructured", "target": 0.9}),
            tmp_path / "c",
        )
    assert not any(tmp_path.iterdir())


def test_recorded_masks_round_trip_and_refuse_another_model(sparse_encoder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(sparse_encoder)
    parameters = prunable_parameters(model, DEFAULT_EXCLUDE)
    lock = MaskLock(parameters, zero_masks_of(parameters))
    lock.save(tmp_path)
    assert masks_equal(load_masks(tmp_path, parameters), lock.zeros)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_masks(tmp_path, {name: p[:, :3] for name, p in parameters.items()})
    (tmp_path / "zero_masks.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="can't be read"):
        load_masks(tmp_path, parameters)


def test_two_processes_keep_the_zeros(sparse_encoder, tmp_path):
    """DDP over gloo by torchrun, the real command line."""
    recipe = tmp_path / "recipe.yaml"
    settings = demo_recipe(sparse_encoder).model_dump(mode="json")
    recipe.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += ["-m", "sparse_deploy", "finetune", "-c", str(recipe), "--output", str(tmp_path / "out")]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert masks_equal(encoder_masks(sparse_encoder), encoder_masks(tmp_path / "out"))
    assert load_manifest(tmp_path / "out").details["steps"] == 12


def test_truncated_source_is_refused(sparse_encoder, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(sparse_encoder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        stage.finetune(demo_recipe(broken), tmp_path / "out")


def test_checkpoint_without_encoder_weights_is_refused(sparse_encoder, tmp_path):
    import shutil

    partial = tmp_path / "partial"
    shutil.copytree(sparse_encoder, partial)
    weights = load_file(partial / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises((CheckpointError, PatternMismatchError), match=r"encoder\.layer\.1\.output\.dense\.weight"):
        stage.finetune(demo_recipe(partial), tmp_path / "out")
