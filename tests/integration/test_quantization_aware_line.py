# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training through the whole line: the deployed INT8 model is the one that was trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoint import demo_recipe

from sparse_deploy.activation_ranges import RANGES_FILE, read_ranges
from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.config import Recipe
from sparse_deploy.data.features import encode_split, load_tokenizer
from sparse_deploy.data.loading import load_split
from sparse_deploy.data.tasks import TaskKind, get_task
from sparse_deploy.errors import ExitCode
from sparse_deploy.graph.model_file import load_onnx
from sparse_deploy.graph.weights import read_weights
from sparse_deploy.modeling import load_finetuned
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.training.fake_quantization import FakeQuantization
from sparse_deploy.training.trainer import predict


@pytest.fixture(scope="module")
def line(trained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the commands: a quantization-aware checkpoint, its deployment, and one without its ranges file."""
    folder = tmp_path_factory.mktemp("line")
    changes = {"max_steps": 0, "qat": {"max_steps": 8, "learning_rate": 5e-4}}
    settings = demo_recipe(trained_checkpoint).finetune.model_dump() | changes
    sparse = {"int8_agreement": 0.6, "sparse": {"source": "int8", "activations": "static"}}
    recipe = demo_recipe(trained_checkpoint, finetune=settings, export=sparse)
    (folder / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
    assert run(["finetune", "-c", str(folder / "recipe.yaml"), "--output", str(folder / "trained")]) == ExitCode.OK
    plain = folder / "calibrated"
    plain.mkdir()
    for path in (folder / "trained").iterdir():
        if path.name not in (RANGES_FILE, "manifest.json"):
            (plain / path.name).write_bytes(path.read_bytes())
    for name in ("trained", "calibrated"):
        target = str(folder / f"{name}-deployment")
        command = ["export", str(folder / name), "-c", str(folder / "recipe.yaml"), "--output", target]
        assert run(command) == ExitCode.OK
    return folder


def answers(deployment: Path, runtime: str, features: list) -> np.ndarray:
    session = get_runtime(runtime).open(deployment, "int8", 1)
    found = [session.run({name: values[None] for name, values in feature.items()})[0] for feature in features]
    session.close()
    return np.concatenate(found)


def test_every_runtime_answers_as_the_trained_model(line):
    recipe = Recipe.model_validate_json((line / "recipe.yaml").read_text())
    task = get_task("demo")
    rows = load_split(task, "validation", None, limit=48)
    tokenizer = load_tokenizer(line / "trained")
    features = encode_split(task, rows, tokenizer, recipe.data, name="validation").features
    model = load_finetuned(line / "trained", TaskKind.CLASSIFICATION)
    ranges = read_ranges(line / "trained")
    fake = FakeQuantization(model, list(ranges.layers), ranges.grid)
    fake.restore(ranges)
    with fake.attached():
        trained = np.stack([found[0] for found in predict(model, features, task, batch_size=1)])
    fp32 = np.stack([found[0] for found in predict(model, features, task, batch_size=1)])
    rounding = np.abs(trained - fp32).mean()
    calibrated = np.abs(answers(line / "calibrated-deployment", "onnxruntime", features) - trained).mean()
    for runtime in ("onnxruntime", "openvino"):
        difference = np.abs(answers(line / "trained-deployment", runtime, features) - trained).mean()
        assert difference < rounding / 5, runtime
        assert difference < calibrated / 5, runtime


def test_the_same_weights_are_in_both_files(line):
    ours, theirs = (
        {weight.name: weight for weight in read_weights(load_onnx(line / f"{name}-deployment" / "model_int8.onnx"))}
        for name in ("trained", "calibrated")
    )
    assert len([weight for weight in ours.values() if weight.quantized]) == 12
    state = load_finetuned(line / "trained", TaskKind.CLASSIFICATION).state_dict()
    for name, weight in ours.items():
        if weight.quantized:
            pairs = state[name].unflatten(1, (-1, 2))
            same_sign = torch.maximum(pairs.clamp(min=0).sum(dim=2), -pairs.clamp(max=0).sum(dim=2))
            scale = same_sign.amax(dim=1) / 127
            np.testing.assert_array_equal(weight.scale.ravel(), scale.clamp(min=torch.finfo().eps).numpy())
    assert ours.keys() == theirs.keys()


def test_the_manifest_says_where_the_ranges_came_from(line):
    ours, theirs = (
        load_manifest(line / f"{name}-deployment").details["calibration"] for name in ("trained", "calibrated")
    )
    assert ours["learned_layers"] == 12
    assert "learned_layers" not in theirs


def test_finetune_prints_both_phases(line, capsys):
    command = ["finetune", "-c", str(line / "recipe.yaml"), "--output", str(line / "again")]
    assert run(command) == ExitCode.OK
    printed = " ".join(capsys.readouterr().err.split())
    assert "quantization-aware phase, 8 steps" in printed
    assert "before; with fake INT8" in printed
