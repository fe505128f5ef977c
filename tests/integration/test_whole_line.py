# SPDX-License-Identifier: Apache-2.0
"""A tiny BERT through the whole line by the command line: finetune, export, bench, inspect."""

import json
import subprocess
import sys
from pathlib import Path

import hidden_instructions
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from tiny_checkpoint import demo_recipe, prune_folder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode
from sparse_deploy.machine import describe_machine
from sparse_deploy.runtimes import sparse_session

PATTERNS = {"unstructured": 0.7, "1:2": 0.5, "4x1": 0.8, "1x4": 0.8}


INT8_ANSWERS = """
import json, sys
from pathlib import Path
import numpy
from sparse_deploy.machine import describe_machine
from sparse_deploy.runtimes import get_runtime

ids = numpy.random.default_rng(0).integers(5, 60, (24, 12))
batch = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
sessions = {name: get_runtime(name).open(Path(sys.argv[1]), "int8", 1) for name in ("onnxruntime", "openvino")}
answers = {name: session.run(batch)[0].tolist() for name, session in sessions.items()}
print(json.dumps({**answers, "saturates": describe_machine().saturates}))
"""
ONE_PATTERN = pytest.mark.parametrize("line", ["unstructured"], indirect=True)  # what does not depend on the pattern


def write_recipe(path: Path, model: Path, **changes: object) -> Path:
    path.write_text(json.dumps(demo_recipe(model, **changes).model_dump(mode="json")))
    return path


@pytest.fixture(scope="module", params=list(PATTERNS))
def line(request, tiny_encoder, tmp_path_factory):
    """Recipe, checkpoint and deployment of one pattern, made by the commands."""
    folder = tmp_path_factory.mktemp("line")
    pattern, share = request.param, PATTERNS[request.param]
    source = prune_folder(tiny_encoder, folder / "source", pattern, share)
    sparsity = {"mode": "lock", "pattern": pattern, "target": share}
    recipe = write_recipe(folder / "recipe.yaml", source, sparsity=sparsity)
    assert run(["finetune", "-c", str(recipe), "--output", str(folder / "checkpoint")]) == ExitCode.OK
    command = ["export", str(folder / "checkpoint"), "-c", str(recipe), "--output", str(folder / "deployment")]
    assert run(command) == ExitCode.OK
    return folder


def inspected(path: Path, capsys: pytest.CaptureFixture) -> dict:
    capsys.readouterr()
    assert run(["inspect", str(path), "--json"]) == ExitCode.OK
    return json.loads(capsys.readouterr().out)


def fp32_accuracy(cells: dict) -> float:
    return cells["pytorch-fp32"]["metrics"]["accuracy"]


def zero_counts(file: dict) -> dict[str, int]:
    """Zeros per tensor; only INT8 files may hold more than the contract requires."""
    tensors = file["record"]["tensors"]
    for tensor in tensors:
        assert tensor["zeros"] == tensor["required_zeros"] or file["weight_types"] == ["i8"]
        assert tensor["zeros"] >= tensor["required_zeros"]
    return {tensor["name"]: tensor["required_zeros"] for tensor in tensors}


def test_every_format_holds_the_same_zeros(line, capsys):
    found = inspected(line / "deployment", capsys)
    counts = {file["path"]: zero_counts(file) for file in found["files"]}
    assert len(counts) == 6
    source = {t.name: t.zeros for t in load_manifest(line / "checkpoint").sparsity["model.safetensors"].tensors}
    assert all(count == source for count in counts.values()), counts
    assert sum(source.values()) > 0


def test_inspect_agrees_when_asked_about_one_file(line, capsys):
    whole = load_manifest(line / "deployment").sparsity
    for name in ("model.onnx", "model_int8.onnx", "model_sparse.onnx", "openvino_model.xml", "openvino_model_int8.xml"):
        (file,) = inspected(line / "deployment" / name, capsys)["files"]
        assert zero_counts(file) == {t.name: t.required_zeros for t in whole[name].tensors}


def test_int8_weights_are_stored_as_int8_with_zero_point_zero(line):
    graph = onnx.load(line / "deployment" / "model_int8.onnx").graph
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    dequantized = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    matrices = [node for node in dequantized if weights[node.input[0]].ndim == 2]
    assert len(matrices) >= 12
    for node in matrices:
        assert weights[node.input[0]].dtype == np.int8
        assert len(node.input) < 3 or not node.input[2] or not weights[node.input[2]].any()
    assert not list((line / "deployment").glob("*.data"))


def test_the_folder_opens_in_plain_runtimes_and_answers_like_pytorch(line):
    folder = line / "deployment"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(
        ["good hotel", "the service was slow and I would not come back"], padding=True, return_tensors="pt"
    )
    expected = AutoModelForSequenceClassification.from_pretrained(folder)(**batch).logits.detach().numpy()
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    inputs = {i.name: arrays[i.name] for i in session.get_inputs()}
    np.testing.assert_allclose(session.run(None, inputs)[0], expected, atol=1e-4)
    compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(arrays)["logits"], expected, atol=1e-4)


@pytest.mark.skipif(not hidden_instructions.available(), reason="needs gcc and objdump (Debian: binutils)")
def test_int8_answers_the_same_on_a_cpu_without_vnni(line):
    command = [sys.executable, "-c", INT8_ANSWERS, str(line / "deployment")]
    here, hidden = (
        json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout.splitlines()[-1])
        for environment in (None, hidden_instructions.environment())
    )
    assert here["saturates"] == describe_machine().saturates
    assert hidden["saturates"]
    for runtime in ("onnxruntime", "openvino"):
        # Products of integers are exact in both; FP32 in between may fall on the other side of a step.
        np.testing.assert_allclose(hidden[runtime], here[runtime], atol=0.02, err_msg=runtime)


@ONE_PATTERN
def test_bench_measures_all_cells_and_writes_the_report(line, capsys):
    report_dir = line / "report"
    capsys.readouterr()
    assert run(["bench", str(line / "deployment"), "--report", str(report_dir), "--json"]) == ExitCode.OK
    report = json.loads(capsys.readouterr().out)
    cells = {cell["id"]: cell for cell in report["cells"]}
    dense = {f"{r}-{p}" for r in ("pytorch", "onnxruntime", "openvino") for p in ("fp32", "int8")}
    assert set(cells) == {*dense, "sparse-int8"}
    assert cells["sparse-int8"]["metrics"]["accuracy"] == pytest.approx(fp32_accuracy(cells), abs=0.05)
    assert cells["sparse-int8"]["sparsity"] is not None
    fp32 = [cells[f"{r}-fp32"]["metrics"]["accuracy"] for r in ("pytorch", "onnxruntime", "openvino")]
    assert fp32[0] == fp32[1] == fp32[2]
    for cell in cells.values():
        assert cell["latency"]["p50_ms"] > 0
        rows = [json.loads(text) for text in (report_dir / cell["predictions"]).read_text().splitlines()]
        assert len(rows) == 96
        assert np.mean([row["correct"] for row in rows]) == pytest.approx(cell["metrics"]["accuracy"])
    for name in ("report.json", "report.md", "report.html"):
        assert (report_dir / name).stat().st_size > 1000


def test_the_sparse_file_has_the_pattern_in_it_and_answers_like_pytorch(line, capsys):
    folder = line / "deployment"
    (file,) = inspected(folder / "model_sparse.onnx", capsys)["files"]
    required = {t.name: t for t in load_manifest(line / "checkpoint").sparsity["model.safetensors"].tensors}
    for tensor in file["record"]["tensors"]:
        assert (tensor["pattern"], tensor["mask_sha256"]) == (
            required[tensor["name"]].pattern,
            required[tensor["name"]].mask_sha256,
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["good hotel", "slow, and I would not come back"], padding=True, return_tensors="pt")
    expected = AutoModelForSequenceClassification.from_pretrained(folder)(**batch).logits.detach().numpy()
    session = sparse_session(folder / "model_sparse.onnx")
    found = session.run(None, {name: batch[name].numpy() for name in (i.name for i in session.get_inputs())})[0]
    np.testing.assert_allclose(found, expected, atol=0.1)


@ONE_PATTERN
def test_inspect_says_what_the_operators_do_with_each_tensor(line, capsys):
    findings = {f["runtime"]: f for f in inspected(line / "deployment", capsys)["findings"]}
    decisions = findings["sparse-deploy operators"]["decisions"]
    assert len(decisions) == 12
    assert all(decision["kernel"] and decision["cost"] > 0 for decision in decisions)


@ONE_PATTERN
def test_a_missed_goal_is_exit_3_and_the_report_is_there(line, capsys):
    goal = '[{"metric": "accuracy", "type": "threshold", "value": 0.999}]'
    command = ["bench", str(line / "deployment"), "--report", str(line / "missed"), "--no-latency"]
    assert run([*command, "--runtime", "onnxruntime", "--set", f"goals={goal}"]) == ExitCode.GATE_FAILED
    assert "0.999" in capsys.readouterr().err
    assert (line / "missed" / "report.html").is_file()


@ONE_PATTERN
def test_dynamic_int8_keeps_the_zeros_too(line, capsys):
    recipe, output = line / "recipe.yaml", line / "dynamic"
    command = ["export", str(line / "checkpoint"), "-c", str(recipe), "--int8", "dynamic", "--output", str(output)]
    assert run(command) == ExitCode.OK
    source = {t.name: t.zeros for t in load_manifest(line / "checkpoint").sparsity["model.safetensors"].tensors}
    onnx_int8 = next(f for f in inspected(output, capsys)["files"] if f["path"] == "model_int8.onnx")
    assert zero_counts(onnx_int8) == source
