# SPDX-License-Identifier: Apache-2.0
"""Interrupted runs resume from whole checkpoints and end bit-equal; half-written ones are never used."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from interrupted_run import interrupted_finetune
from safetensors.torch import load_file
from tiny_checkpoint import demo_recipe

from sparse_deploy.errors import ConfigError
from sparse_deploy.stages.finetune import finetune
from sparse_deploy.training.resume import is_complete, newest_complete_checkpoint


def write_recipe(encoder: Path, folder: Path, steps: int) -> Path:
    recipe = demo_recipe(encoder)
    slow = recipe.finetune.model_copy(update={"max_steps": steps, "save_steps": 6})
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe.model_copy(update={"finetune": slow}).model_dump(mode="json")))
    return path


@pytest.fixture
def recipe_file(sparse_encoder, tmp_path) -> Path:
    return write_recipe(sparse_encoder, tmp_path, 60)


@pytest.fixture
def endless_recipe_file(sparse_encoder, tmp_path) -> Path:
    """Of a run that the test ends."""
    return write_recipe(sparse_encoder, tmp_path, 100_000)


def start(recipe: Path, output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "sparse_deploy", "finetune", "-c", str(recipe), "--output", str(output)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while newest_complete_checkpoint(folder) is None:
        assert process.poll() is None, process.stderr.read()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_stopped_run_resumes_to_the_same_weights(recipe_file, tmp_path, how):
    output = tmp_path / "out"
    state = tmp_path / "out.training"
    # In the third epoch of 16 steps: the order of an epoch must not depend on the process that it began in.
    stopped = interrupted_finetune(state / "checkpoint-42", how, "-c", recipe_file, "--output", output)
    assert stopped.returncode == (130 if how is signal.SIGINT else -how)
    assert not output.exists()
    (state / "checkpoint-9999").mkdir()  # what a kill in the middle of a save leaves: the newest, without a marker
    (state / "checkpoint-9999" / "model.safetensors").write_bytes(b"half")
    resumed = start(recipe_file, output)
    assert resumed.wait(timeout=180) == 0, resumed.stderr.read()[-2000:]
    straight = tmp_path / "straight"
    again = start(recipe_file, straight)
    assert again.wait(timeout=180) == 0
    ours, theirs = weights(output), weights(straight)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert not state.exists()


def test_completeness_needs_every_file_in_full_size(tmp_path):
    checkpoint = tmp_path / "checkpoint-5"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"12345")
    assert not is_complete(checkpoint)
    (checkpoint / "complete.json").write_text(json.dumps({"step": 5, "bytes": {"model.safetensors": 5}}))
    assert is_complete(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"123")
    assert not is_complete(checkpoint)
    (checkpoint / "complete.json").write_text("[]")
    assert not is_complete(checkpoint)


def test_state_of_another_recipe_is_not_resumed(sparse_encoder, tmp_path, endless_recipe_file):
    output = tmp_path / "out"
    process = start(endless_recipe_file, output)
    wait_for_checkpoint(tmp_path / "out.training", process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    with pytest.raises(ConfigError, match="--restart"):
        finetune(demo_recipe(sparse_encoder), output)
    assert finetune(demo_recipe(sparse_encoder), output, restart=True) is not None


def test_a_second_run_for_the_same_output_is_refused_while_the_first_trains(
    sparse_encoder, tmp_path, endless_recipe_file
):
    state = tmp_path / "out.training"
    first = start(endless_recipe_file, tmp_path / "out")
    try:
        wait_for_checkpoint(state, first)
        with pytest.raises(ConfigError, match="another process"):
            finetune(demo_recipe(sparse_encoder), tmp_path / "out", restart=True)
        assert newest_complete_checkpoint(state) is not None  # --restart of the second took nothing from the first
    finally:
        first.kill()
        first.communicate()
