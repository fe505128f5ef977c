# SPDX-License-Identifier: Apache-2.0
"""`sparse-deploy demo`, the README's first command, with a tiny encoder in the place of MiniLM."""

import json

import pytest

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.config.loader import load_recipe
from sparse_deploy.errors import ExitCode
from sparse_deploy.stages.demo import embedded_recipe

# What the tiny model is too small or too badly trained for; everything else is the embedded recipe's.
TINY = {
    "finetune.max_steps": 12,
    "finetune.precision": "fp32",
    "data.train_samples": 256,
    "data.validation_samples": 96,
    "export.int8_agreement": 0.75,
    "quantization.calibration_samples": 32,
    "bench.runtimes": "[pytorch, onnxruntime, sparse]",
    "bench.blocks": 2,
    "bench.block_seconds": 0.1,
}


def test_the_demo_prunes_exports_and_compares_with_the_dense_model(tiny_encoder, tmp_path, capsys):
    changes = [f"{key}={value}" for key, value in {**TINY, "model.name_or_path": tiny_encoder}.items()]
    command = ["demo", "--output", str(tmp_path), *(part for change in changes for part in ("--set", change))]
    assert run(command) == ExitCode.OK
    said = capsys.readouterr()
    assert load_manifest(tmp_path / "dense").sparsity["model.safetensors"].sparsity_of_prunable < 0.01
    record = load_manifest(tmp_path / "deployment").sparsity["model_sparse.onnx"]
    assert record.sparsity_of_prunable == pytest.approx(load_recipe(embedded_recipe()).sparsity.target, abs=0.01)
    rows = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert {tuple(row) for row in rows} == {("sentence",)}  # no labels
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    dense = report["settings"]["baseline_model_metrics"]["accuracy"]
    cells = {cell["id"]: cell for cell in report["cells"]}
    assert (
        f"dense, PyTorch FP32: {dense:.2%}; sparse, INT8: {cells['sparse-int8']['metrics']['accuracy']:.2%}" in said.out
    )
    assert f"{cells['sparse-int8']['latency']['p50_ms']:.2f} ms" in said.out
    assert "sparse-deploy prune MODEL" in said.out.split("Next steps, with")[1]
    for stage in ("train the dense model", "prune", "export", "bench"):
        assert f"demo: {stage}: " in said.err
        assert f"{stage} " in said.out
