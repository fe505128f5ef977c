# SPDX-License-Identifier: Apache-2.0
"""The fuzzer of the checks works: with a check removed it reports false accepts."""

import random
import shutil
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper


@pytest.fixture
def fuzz(tiny_deployment, tmp_path, monkeypatch):
    import fuzz_artifacts

    # The suite's own limit per test uses the same timer.
    monkeypatch.setattr(fuzz_artifacts.signal, "setitimer", lambda *_: None)

    shutil.copytree(tiny_deployment, tmp_path / "deployment")
    (tmp_path / "deployment" / "README.md").write_text("not listed, and allowed")
    return fuzz_artifacts


@pytest.fixture
def fuzzer(fuzz, tmp_path):
    return fuzz.Fuzzer(tmp_path / "deployment", seed=1, seconds=10, native=3)


def test_the_checks_let_nothing_wrong_through(fuzzer, tmp_path):
    before = {path.name: path.read_bytes() for path in (tmp_path / "deployment").iterdir()}
    for number in range(100):
        fuzzer.run(number)
    total = sum(fuzzer.counts.values(), start=type(next(iter(fuzzer.counts.values())))())
    assert sum(total.values()) == 100
    assert total["refused"] > 50
    assert not fuzzer.notes
    assert {path.name: path.read_bytes() for path in (tmp_path / "deployment").iterdir()} == before


def test_without_the_checks_they_are_reported(fuzz, fuzzer, monkeypatch):
    files = fuzz.load_manifest(fuzzer.folder).files
    monkeypatch.setattr(fuzz, "check_model_file", lambda path: None)
    monkeypatch.setattr(fuzz, "load_manifest", lambda folder: type("Manifest", (), {"files": files[:1]}))
    for number in range(100):
        fuzzer.run(number)
    assert fuzzer.counts["sealed file"]["false accept"] > 10
    assert fuzzer.counts["manifest"]["false accept"] > 10
    assert fuzzer.counts["ONNX"]["false accept"] > 0


def test_an_error_that_is_not_ours_and_a_hang_are_reported(fuzz, fuzzer, monkeypatch):
    def fail(path):
        raise ZeroDivisionError

    monkeypatch.setattr(fuzz, "check_model_file", fail)
    fuzzer.run(0)
    assert fuzzer.counts["ONNX"]["error"] == 1

    def hang(path):
        raise fuzz.HangError

    monkeypatch.setattr(fuzz, "check_model_file", hang)
    fuzzer.run(1)
    assert fuzzer.counts["IR"]["hang"] == 1


def test_the_independent_parser_sees_each_forbidden_thing(fuzz):
    node = helper.make_node("Relu", ["a"], ["b"])
    graph = helper.make_graph([node], "g", [], [], [onnx.numpy_helper.from_array(np.zeros(2), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    before = model.SerializeToString()
    assert fuzz.look_at_onnx(Path(), before, before) == "unchanged"
    node = model.graph.node[0]
    node.op_type = "Tanh"
    assert fuzz.look_at_onnx(Path(), before, model.SerializeToString()) == "other content"
    node.domain = "evil"
    assert fuzz.look_at_onnx(Path(), before, model.SerializeToString()) == "false accept"
    node.domain = ""
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    assert fuzz.look_at_onnx(Path(), before, model.SerializeToString()) == "false accept"


def test_a_mutation_is_the_same_for_the_same_seed(fuzz, fuzzer):
    original = fuzz.Original("model.onnx", (fuzzer.folder / "model.onnx").read_bytes())
    one, same, other = (fuzz.mutate(original, random.Random(seed)) for seed in (7, 7, 8))
    assert one == same != other


def test_a_child_that_dies_or_hangs_is_a_word(fuzz, monkeypatch, tmp_path):
    from reliability import native_loads

    (tmp_path / "model.safetensors").write_bytes(b"x")
    child = native_loads.Child(seconds=60)
    try:
        assert child.open("safetensors", tmp_path / "model.safetensors") == "refused"
        child._process.kill()
        child._process.wait()
        assert child.open("safetensors", tmp_path / "model.safetensors") == "refused"  # started again
        child._seconds = 0.2
        child._process.send_signal(signal.SIGSTOP)
        assert child.open("safetensors", tmp_path / "model.safetensors") == "hang"
    finally:
        child.close()
    assert native_loads.summary(native_loads.Counter({"crash SIGSEGV": 2, "crash 1": 1, "answered": 5}))["crash"] == 3
