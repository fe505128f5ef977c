# SPDX-License-Identifier: Apache-2.0
"""Question answering and regression through the whole line, on real text where it is."""

import json

import pytest
from tiny_checkpoint import demo_recipe

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("task", "metrics"), [("squad", {"exact_match", "f1"}), ("stsb", {"pearson", "spearman"}), ("mnli", {"accuracy"})]
)
def test_a_task_goes_through(task, metrics, sparse_encoder, real_data, tmp_path, capsys):
    data = {"max_length": 96, "doc_stride": 24, "train_samples": 48, "validation_samples": 24}
    recipe = tmp_path / "recipe.yaml"
    changes = {"task": task, "data": data, "export": {"int8_agreement": 0.0}}
    recipe.write_text(json.dumps(demo_recipe(sparse_encoder, **changes).model_dump(mode="json")))
    common = ["-c", str(recipe), "--data-dir", str(real_data)]
    checkpoint, deployment = tmp_path / "checkpoint", tmp_path / "deployment"
    assert run(["finetune", *common, "--output", str(checkpoint)]) == ExitCode.OK
    assert run(["export", str(checkpoint), *common, "--output", str(deployment)]) == ExitCode.OK
    assert load_manifest(deployment).sparsity["model_int8.onnx"].sparsity_of_prunable >= 0.7
    capsys.readouterr()
    command = ["bench", str(deployment), "--data-dir", str(real_data), "--no-latency", "--json"]
    assert run([*command, "--report", str(tmp_path / "report")]) == ExitCode.OK
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) == 7
    for cell in cells:
        assert metrics <= set(cell["metrics"])
        if task == "mnli":
            assert "accuracy_mismatched" in cell["metrics"]
