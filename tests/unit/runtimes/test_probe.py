# SPDX-License-Identifier: Apache-2.0
"""A model is first opened in a child: a crash, a hang or a flood of output is one typed error in the parent."""

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparse_deploy.errors import ArtifactError, ConfigError, ExitCode, RuntimeUnavailableError
from sparse_deploy.runtimes.probe import ProbeResult, probe, run_isolated

MODEL = Path("model.onnx")
CELLS = (
    ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "int8"), ("sparse", "int8"),
)  # fmt: skip


def child(code: str, seconds: float = 20.0) -> dict:
    return run_isolated([sys.executable, "-c", code], MODEL, 1, seconds)


@pytest.mark.parametrize(("runtime", "precision"), CELLS)
def test_every_served_cell_answers(tiny_deployment, runtime, precision):
    result = probe(runtime, tiny_deployment, precision, 1, tokens=16)
    assert isinstance(result, ProbeResult)
    assert 0 < result.load_seconds < 60
    assert 0 < result.median_ms < 1000
    assert 20e6 < result.peak_memory_bytes < 2e9


def test_requests_longer_than_the_model_reads_are_cut(tiny_deployment):
    assert probe("onnxruntime", tiny_deployment, "fp32", 1, tokens=100_000).median_ms > 0


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"SIGKILL \(out of memory\?\)"),
        ("import sys; print('parser: bad magic', file=sys.stderr); sys.exit(7)", "exit code 7.*parser: bad magic"),
        ("import os; os.system('exit'); os._exit(0)", "invalid response"),
        ("print('[' * 100000)", "invalid response"),
        ("print('{}')", "invalid response"),
        ("import sys; sys.stdout.write('x' * 50_000_000)", "invalid response"),
    ],
)
def test_a_child_that_ends_badly(code, said):
    with pytest.raises(ArtifactError, match=said) as caught:
        child(code)
    assert caught.value.exit_code is ExitCode.BAD_ARTIFACT
    assert str(caught.value).startswith("model.onnx: ")
    assert "\n" not in str(caught.value)


def test_a_hanging_child_is_ended():
    start = time.monotonic()
    with pytest.raises(ArtifactError, match=r"did not respond within 0\.5 s"):
        child("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", 0.5)
    assert time.monotonic() - start < 10


def test_a_flood_of_messages_does_not_stall_the_child():
    code = "import sys; sys.stderr.write('y' * 5_000_000); print('{\"a\": 1}')"
    assert child(code) == {"a": 1}


@pytest.mark.parametrize(
    "answer", ['{"load_seconds": 1}', '{"load_seconds": 1, "median_ms": NaN, "peak_memory_bytes": 1}']
)
def test_an_answer_without_the_figures_is_refused(tiny_deployment, monkeypatch, answer):
    monkeypatch.setattr("sparse_deploy.runtimes.probe.run_isolated", lambda *_: json.loads(answer))
    with pytest.raises(ArtifactError, match="invalid response"):
        probe("onnxruntime", tiny_deployment, "fp32", 1, tokens=8)


def test_errors_of_the_child_keep_their_class():
    with pytest.raises(RuntimeUnavailableError, match="not here"):
        child('print(\'{"error": "RuntimeUnavailableError", "message": "not here"}\')')
    with pytest.raises(ConfigError, match="x"):
        child('print(\'{"error": "ConfigError", "message": "x"}\')')
    with pytest.raises(ArtifactError, match="y"):
        child('print(\'{"error": "ExitCode", "message": "y"}\')')


def test_missing_file_and_unknown_precision(tiny_deployment, tmp_path):
    with pytest.raises(ArtifactError, match="needs this file"):
        probe("onnxruntime", deployment_with(tiny_deployment, tmp_path, None), "fp32", 1, tokens=8)
    with pytest.raises(ArtifactError, match="expected precision"):
        probe("onnxruntime", tiny_deployment, "fp16", 1, tokens=8)


def deployment_with(source: Path, folder: Path, model: onnx.ModelProto | None) -> Path:
    shutil.copy(source / "config.json", folder / "config.json")
    if model is not None:
        onnx.save(model, folder / "model.onnx")
    return folder


def model_of(nodes: list, initializers: list) -> onnx.ModelProto:
    """Takes the three inputs of a task's model, and returns the result of ``nodes`` as ``logits``."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "hostile", inputs, [logits], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def constant(name: str, value: object, dtype: type = np.int64) -> TensorProto:
    return onnx.numpy_helper.from_array(np.array(value, dtype), name)


def test_a_model_that_allocates_without_end(tiny_deployment, tmp_path):
    # 300 bytes of file; the shape depends on the input, so that nothing can compute it while loading: 2^38 bytes.
    nodes = [
        helper.make_node("ReduceMin", ["attention_mask"], ["any"], keepdims=1),
        helper.make_node("Cast", ["any"], ["small"], to=TensorProto.FLOAT),
        helper.make_node("Expand", ["small", "huge"], ["logits"]),
    ]
    folder = deployment_with(tiny_deployment, tmp_path, model_of(nodes, [constant("huge", [2**20, 2**16])]))
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        probe("onnxruntime", folder, "fp32", 1, tokens=8)


def test_a_model_that_answers_not_a_number(tiny_deployment, tmp_path):
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["ids", "ids"], ["zeros"]),
        helper.make_node("Div", ["zeros", "zeros"], ["logits"]),
    ]
    folder = deployment_with(tiny_deployment, tmp_path, model_of(nodes, []))
    with pytest.raises(ArtifactError, match="NaN or infinity"):
        probe("onnxruntime", folder, "fp32", 1, tokens=8)


def test_a_model_that_computes_for_too_long(tiny_deployment, tmp_path):
    # Many products of 2^13 squared matrices, with little memory.
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["ids"], ["one"], keepdims=0),
        helper.make_node("Expand", ["one", "shape"], ["x0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"x{i}", f"x{i}"], [f"x{i + 1}"]) for i in range(200)]
    nodes.append(helper.make_node("Identity", ["x200"], ["logits"]))
    folder = deployment_with(tiny_deployment, tmp_path, model_of(nodes, [constant("shape", [4096, 4096])]))
    with pytest.raises(ArtifactError, match="did not respond within 3 s"):
        probe("onnxruntime", folder, "fp32", 1, tokens=8, seconds=3)
