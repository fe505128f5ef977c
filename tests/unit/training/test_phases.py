# SPDX-License-Identifier: Apache-2.0
"""The quantization-aware phase: zeros held, ranges frozen in time, a kill survived, a plain checkpoint left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted_run import interrupted_finetune
from safetensors.torch import load_file
from tiny_checkpoint import demo_recipe
from transformers import AutoModelForSequenceClassification

from sparse_deploy.activation_ranges import RANGES_FILE, read_ranges
from sparse_deploy.artifacts import load_manifest
from sparse_deploy.checkpoint import zero_masks
from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.errors import ConfigError
from sparse_deploy.stages.finetune import finetune
from sparse_deploy.training import phases
from sparse_deploy.training.phases import planned_steps
from sparse_deploy.training.resume import QAT_FOLDER, QAT_START, newest_complete_checkpoint, open_run

QAT = {"max_steps": 10, "learning_rate": 1e-3, "observe_steps": 4}


def qat_recipe(model: Path, changes: dict | None = None, qat: dict | None = None, **sections):
    finetune_section = demo_recipe(model).finetune.model_dump() | {"qat": QAT | (qat or {})} | (changes or {})
    return demo_recipe(model, finetune=finetune_section, **sections)


@pytest.fixture(scope="module")
def trained(trained_checkpoint, tmp_path_factory):
    """Quantization-aware training alone, on a fine-tuned sparse checkpoint that is the teacher as well."""
    output = tmp_path_factory.mktemp("qat") / "checkpoint"
    said = []
    distillation = {"teacher": str(trained_checkpoint), "alpha": 0.8}
    recipe = qat_recipe(
        trained_checkpoint, {"max_steps": 0, "precision": "bf16", "gradient_accumulation_steps": 2},
        distillation=distillation,
    )  # fmt: skip
    manifest = finetune(recipe, output, progress=lambda message, share: said.append((message, share)))
    return output, manifest, said


def test_zeros_are_held_and_live_weights_move(trained, trained_checkpoint):
    before, after = (zero_masks(folder, DEFAULT_EXCLUDE) for folder in (trained_checkpoint, trained[0]))
    assert len(before) == 12
    assert all(np.array_equal(before[name], after[name]) for name in before)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    moved = (
        load_file(trained[0] / "model.safetensors")[name] != load_file(trained_checkpoint / "model.safetensors")[name]
    )
    assert 0.29 < moved.float().mean() < 0.31


def test_the_checkpoint_is_a_plain_one_with_a_listed_file_of_ranges(trained, trained_checkpoint):
    output, manifest, _ = trained
    _, info = AutoModelForSequenceClassification.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert load_file(output / "model.safetensors").keys() == load_file(trained_checkpoint / "model.safetensors").keys()
    assert RANGES_FILE in {record.path for record in manifest.files}
    assert load_manifest(output, "checkpoint") == manifest
    assert not output.with_name("checkpoint.training").exists()


def test_ranges_are_frozen_after_observe_steps(trained):
    ranges = read_ranges(trained[0])
    assert ranges.frozen
    assert ranges.batches == 4 * 2  # steps times accumulated batches
    assert len(ranges.layers) == 12
    for layer in (0, 1):
        queries = {ranges.layers[f"bert.encoder.layer.{layer}.attention.self.{n}"] for n in ("query", "key", "value")}
        assert len(queries) == 1


def test_metrics_of_all_three_models_are_named(trained, trained_checkpoint):
    _, manifest, said = trained
    metrics = manifest.details["qat"]["metrics"]
    assert set(metrics) == {"fp32_before", "fp32_after", "fake_int8_after"}
    assert metrics["fp32_after"] == manifest.details["metrics"]
    before = load_manifest(trained_checkpoint).details["metrics"]
    assert metrics["fp32_before"]["loss"] == pytest.approx(before["loss"], abs=1e-5)
    assert len({found["loss"] for found in metrics.values()}) == 3
    assert metrics["fake_int8_after"]["loss"] == pytest.approx(metrics["fp32_after"]["loss"], abs=0.05)
    assert manifest.details["steps"] == 0
    assert manifest.details["qat"]["steps"] == 10
    assert any("loss" in entry for entry in manifest.details["qat"]["history"])
    shares = [share for _, share in said]
    assert shares == sorted(shares)
    assert "fake INT8, step 5/10" in {message.split(", loss")[0] for message, _ in said}


def test_both_phases_prune_then_hold(tiny_encoder, tmp_path):
    pruning = {"mode": "prune", "pattern": "4x1", "target": 0.8, "frequency": 2}
    strong = {"weight_decay": 0.9, "max_grad_norm": 0.01}
    manifest = finetune(qat_recipe(tiny_encoder, strong, {"learning_rate": 0.05}, sparsity=pruning), tmp_path / "out")
    assert manifest.sparsity["model.safetensors"].sparsity_of_prunable == pytest.approx(0.8, abs=0.01)
    assert {tensor.pattern for tensor in manifest.sparsity["model.safetensors"].tensors} == {"block 4x1"}
    assert manifest.details["steps"] == 12


def test_without_qat_all_is_as_before(sparse_encoder, trained_checkpoint, tmp_path):
    """The normal phase of a run with both phases takes the same steps as a run without the second one."""
    plain = load_manifest(trained_checkpoint)
    assert set(plain.details) == {"metrics", "precision", "steps", "history", "task", "labels", "rows_left_out"}
    assert not (trained_checkpoint / RANGES_FILE).exists()
    both = finetune(qat_recipe(sparse_encoder, qat={"max_steps": 1}), tmp_path / "out")
    losses = [[entry["loss"] for entry in m.details["history"] if "loss" in entry] for m in (plain, both)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # sums of two threads are not equal to the last bit
    assert both.details["qat"]["metrics"]["fp32_before"] == pytest.approx(plain.details["metrics"], abs=1e-5)


@pytest.fixture(scope="module")
def straight(sparse_encoder, tmp_path_factory):
    """A run of both phases that nothing disturbs, and its recipe."""
    recipe = qat_recipe(sparse_encoder, {"max_steps": 9, "save_steps": 3}, {"max_steps": 9})
    output = tmp_path_factory.mktemp("straight") / "checkpoint"
    return recipe, output, finetune(recipe, output)


@pytest.mark.parametrize("phase", ["normal", "qat"])
def test_a_killed_run_resumes_in_its_phase_to_the_same_result(straight, tmp_path, phase):
    recipe, expected, manifest = straight
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe.model_dump(mode="json")))
    state = tmp_path / "out.training"
    checkpoint = (state / QAT_FOLDER if phase == "qat" else state) / "checkpoint-3"
    killed = interrupted_finetune(
        checkpoint, signal.SIGKILL, "-c", path, "--output", tmp_path / "out", threads=torch.get_num_threads()
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert newest_complete_checkpoint(checkpoint.parent) == checkpoint
    assert not (tmp_path / "out").exists()
    assert (state / QAT_START).exists() == (phase == "qat")
    resumed = finetune(recipe, tmp_path / "out")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", expected))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert read_ranges(tmp_path / "out") == read_ranges(expected)
    assert resumed.details["steps"] == manifest.details["steps"] == 9
    assert resumed.details["metrics"] == manifest.details["metrics"]


def test_a_run_that_stops_after_its_last_normal_step_goes_on_with_the_next_phase(straight, tmp_path, monkeypatch):
    recipe, expected, manifest = straight

    def dies(*_):
        raise OSError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(phases, "_write_start", dies)
        with pytest.raises(OSError, match="gone"):
            finetune(recipe, tmp_path / "out")
    resumed = finetune(recipe, tmp_path / "out")
    assert resumed.details["steps"] == manifest.details["steps"] == 9
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", expected))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_between_the_phases_a_run_resumes_from_the_weights_in_between(tmp_path):
    fingerprint = {"recipe": 1}
    assert open_run(tmp_path, fingerprint, restart=False) is None
    for name in ("checkpoint-12", QAT_START, f"{QAT_FOLDER}/checkpoint-4"):
        (tmp_path / name).mkdir(parents=True)
    complete = json.dumps({"bytes": {}})
    (tmp_path / "checkpoint-12" / "complete.json").write_text(complete)
    assert open_run(tmp_path, fingerprint, restart=False) == tmp_path / "checkpoint-12"
    assert not (tmp_path / QAT_FOLDER / "checkpoint-4").exists()
    (tmp_path / QAT_START / "complete.json").write_text(complete)
    assert open_run(tmp_path, fingerprint, restart=False) == tmp_path / QAT_START
    (tmp_path / QAT_FOLDER / "checkpoint-4").mkdir()
    (tmp_path / QAT_FOLDER / "checkpoint-4" / "complete.json").write_text(complete)
    assert open_run(tmp_path, fingerprint, restart=False) == tmp_path / QAT_FOLDER / "checkpoint-4"
    with pytest.raises(ConfigError, match="--restart"):
        open_run(tmp_path, {"recipe": 2}, restart=False)


def test_two_processes_learn_the_same_ranges(sparse_encoder, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(qat_recipe(sparse_encoder, {"max_steps": 3}).model_dump(mode="json")))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += ["-m", "sparse_deploy", "finetune", "-c", str(path), "--output", str(tmp_path / "out"), "--json"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["qat"]["steps"] == 10
    before, after = zero_masks(sparse_encoder, DEFAULT_EXCLUDE), zero_masks(tmp_path / "out", DEFAULT_EXCLUDE)
    assert all(np.array_equal(mask, after[f"bert.{name}"]) for name, mask in before.items())
    assert read_ranges(tmp_path / "out").batches == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune": {"max_steps": 0}}, "trains nothing without qat"),
        ({"finetune": {"qat": {"max_steps": 0}}}, "omit qat"),
        ({"finetune": {"max_steps": 0, "qat": {}}, "sparsity": {"mode": "prune", "pattern": "4x1", "target": 0.5}},
         "needs training steps"),
    ],
)  # fmt: skip
def test_recipes_that_can_not_be_meant(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        demo_recipe(tmp_path, **changes)


def test_only_static_int8_can_be_trained_for(sparse_encoder, tmp_path):
    with pytest.raises(ConfigError, match=r"found quantization\.mode dynamic"):
        finetune(qat_recipe(sparse_encoder, quantization={"mode": "dynamic"}), tmp_path / "out")


def test_planned_steps_are_the_trainers(sparse_encoder):
    settings = demo_recipe(sparse_encoder).finetune
    whole = settings.model_copy(update={"max_steps": -1, "epochs": 1.5, "gradient_accumulation_steps": 3})
    assert planned_steps(settings, 256) == 12
    assert planned_steps(whole, 250) == 9  # 16 batches, 6 steps per epoch
