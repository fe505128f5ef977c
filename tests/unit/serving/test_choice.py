# SPDX-License-Identifier: Apache-2.0
"""Which runtime a server takes."""

import shutil

import pytest

from sparse_deploy.errors import ArtifactError, RuntimeUnavailableError
from sparse_deploy.runtimes.probe import ProbeResult
from sparse_deploy.serving import choice
from sparse_deploy.serving.choice import choose_runtime, length_multiple


@pytest.fixture
def measured(monkeypatch):
    """Milliseconds by candidate in place of processes; what was measured is noted."""
    milliseconds = {"sparse": 2.0, "openvino": 1.0, "onnxruntime": 3.0}
    asked = []

    def probe(name, folder, precision, threads, *, tokens):
        asked.append((name, precision))
        return ProbeResult(0.1, milliseconds[name], 1)

    monkeypatch.setattr(choice, "probe", probe)
    return asked


def test_the_fastest_of_all_that_the_folder_has(tiny_deployment, measured):
    found = choose_runtime(tiny_deployment, "auto", None, 1, tokens=8)
    assert found.cell == "openvino-int8"
    assert found.milliseconds == {"sparse-int8": 2.0, "openvino-int8": 1.0}  # dynamic INT8 depends on its batch
    assert found.batch_invariant


def test_dynamic_int8_is_taken_where_there_is_no_other_and_makes_no_batches(tiny_deployment, tmp_path, measured):
    for name in ("model.onnx", "model_int8.onnx"):
        shutil.copy(tiny_deployment / name, tmp_path)
    found = choose_runtime(tmp_path, "auto", None, 1, tokens=8)
    assert (found.cell, found.batch_invariant) == ("onnxruntime-int8", False)
    assert choose_runtime(tmp_path, "auto", "fp32", 1, tokens=8).batch_invariant


def test_a_name_is_obeyed_and_opened_apart_all_the_same(tiny_deployment, measured):
    assert choose_runtime(tiny_deployment, "onnxruntime", None, 1, tokens=8).cell == "onnxruntime-int8"
    assert measured == [("onnxruntime", "int8")]


def test_only_files_that_openvino_rounds_in_need_whole_vectors(tiny_deployment):
    """The IR of dynamic INT8 is computed in FP32; that of static INT8 is in tests/integration/test_equal_answers.py."""
    cells = [("openvino", "int8"), ("openvino", "fp32"), ("onnxruntime", "int8"), ("sparse", "int8")]
    assert [length_multiple(name, tiny_deployment, precision) for name, precision in cells] == [1, 1, 1, 1]


def test_fp32_on_request(tiny_deployment, measured):
    found = choose_runtime(tiny_deployment, "auto", "fp32", 1, tokens=8)
    assert set(found.milliseconds) == {"openvino-fp32", "onnxruntime-fp32"}


def test_fp32_where_there_is_no_int8(tiny_deployment, tmp_path, measured):
    shutil.copy(tiny_deployment / "model.onnx", tmp_path)
    assert choose_runtime(tmp_path, "auto", None, 1, tokens=8).cell == "onnxruntime-fp32"


def test_no_file_that_fits(tmp_path, measured):
    with pytest.raises(ArtifactError, match=r"no model file for sparse, openvino-sparse, openvino, onnxruntime;"):
        choose_runtime(tmp_path, "auto", None, 1, tokens=8)
    with pytest.raises(ArtifactError, match=r"no fp32 file for sparse;"):
        choose_runtime(tmp_path, "sparse", "fp32", 1, tokens=8)


def test_a_runtime_that_would_answer_wrongly_here_is_left_out(tiny_deployment, monkeypatch):
    def probe(name, folder, precision, threads, *, tokens):
        if name == "openvino":
            raise RuntimeUnavailableError("its 8-bit weights saturate")
        return ProbeResult(0.1, 1.0, 1)

    monkeypatch.setattr(choice, "probe", probe)
    found = choose_runtime(tiny_deployment, "auto", None, 1, tokens=8)
    assert found.cell == "sparse-int8"
    assert found.refused == {"openvino-int8": "its 8-bit weights saturate"}
    with pytest.raises(RuntimeUnavailableError, match="8-bit weights saturate"):
        choose_runtime(tiny_deployment, "openvino", None, 1, tokens=8)


def test_without_the_operators_the_others_serve(tiny_deployment, measured, without_operators):
    assert set(choose_runtime(tiny_deployment, "auto", None, 1, tokens=8).milliseconds) == {"openvino-int8"}
    with pytest.raises(RuntimeUnavailableError):
        choose_runtime(tiny_deployment, "sparse", None, 1, tokens=8)


def test_a_file_that_its_runtime_can_not_open_ends_the_choice(tiny_deployment, tmp_path):
    for name in ("config.json", "model_int8.onnx"):
        shutil.copy(tiny_deployment / name, tmp_path)
    with (tmp_path / "model_int8.onnx").open("r+b") as stream:
        stream.truncate(2000)
    with pytest.raises(ArtifactError, match=r"model_int8\.onnx"):
        choose_runtime(tmp_path, "auto", None, 1, tokens=8)
