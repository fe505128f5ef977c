# SPDX-License-Identifier: Apache-2.0
"""The command: a plain table when piped, JSON on request, one line and the documented exit code on errors."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode
from sparse_deploy.inspection.benefit import Finding, Verdict
from sparse_deploy.inspection.inspect import inspect_path
from sparse_deploy.inspection.tables import benefit_rows, file_rows, tensor_rows

PARTS = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")


@pytest.fixture
def checkpoint(tmp_path):
    """27 layers of four small tensors: more rows than the table shows."""
    rng = np.random.default_rng(0)
    weights = {
        f"bert.encoder.layer.{layer}.{part}.weight": np.where(rng.random((8, 16)) < 0.75, 0, 1).astype(np.float32)
        for layer in range(27)
        for part in PARTS
    }
    weights["bert.embeddings.word_embeddings.weight"] = np.ones((32, 8), np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return tmp_path


def test_table_is_plain_and_narrow_when_piped(checkpoint, capsys):
    assert run(["inspect", str(checkpoint)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(len(line) for line in out.splitlines() if str(checkpoint) not in line) <= 120
    assert "bert.encoder.layer.*.weight" in out
    assert "26.output.dense" not in out
    assert "8 more tensors; --full shows them" in out
    for words in ("sparsity of prunable tensors", "sparsity of whole model", "ONNX Runtime: no effect", "embeddings"):
        assert words in out


def test_full_shows_every_tensor(checkpoint, capsys):
    assert run(["inspect", "--full", str(checkpoint)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert sum(f"{layer}.attention.self.query " in out for layer in range(27)) == 27
    assert "more tensors" not in out


def test_json_holds_everything(checkpoint, capsys):
    assert run(["inspect", "--json", str(checkpoint)]) == ExitCode.OK
    data = json.loads(capsys.readouterr().out)
    tensors = data["files"][0]["record"]["tensors"]
    assert len(tensors) == 108
    assert sum(t["required_zeros"] for t in tensors) == data["files"][0]["required_zeros"]
    assert {f["runtime"] for f in data["findings"]} >= {"PyTorch", "ONNX Runtime", "OpenVINO"}


def test_exclude_is_repeatable(checkpoint, capsys):
    assert run(["inspect", "--json", "--exclude", "attention", "--exclude", "embeddings", str(checkpoint)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["files"][0]["record"]["tensors"]) == 54
    assert len(data["files"][0]["left_out"]) == 55


@pytest.mark.parametrize(
    ("name", "code"),
    [("nothing-here.onnx", ExitCode.USAGE), ("model.safetensors", ExitCode.BAD_ARTIFACT)],
)
def test_errors_are_one_line_with_their_exit_code(checkpoint, capsys, name, code):
    (checkpoint / "model.safetensors").write_bytes(b"short")
    target = checkpoint if name == "model.safetensors" else checkpoint / name
    assert run(["inspect", str(target)]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("sparse-deploy: ")
    assert shown.err.count("\n") == 1


def test_importing_the_command_pulls_no_heavy_library():
    heavy = "('torch', 'onnx', 'openvino', 'numpy')"
    script = f"import sys, sparse_deploy.cli.inspect; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_rows_of_a_single_file(checkpoint):
    found = inspect_path(str(checkpoint))
    tensors = tensor_rows(found)
    assert tensors.headers == ("bert.encoder.layer.*.weight", "shape", "pattern", "share", "zeros")
    first = found.files[0].record.tensors[0]
    assert tensors.rows[0] == (
        "0.attention.output.dense", "8x16", first.pattern, f"{100 * first.zero_share:.1f} %", str(first.zeros),
    )  # fmt: skip
    (row,) = file_rows(found).rows
    assert row[0] == "model.safetensors"
    assert row[4] == f"{100 * found.files[0].sparsity_of_prunable:.1f} %"
    assert row[5] == f"{100 * found.files[0].sparsity_of_model:.1f} %"
    assert float(row[4][:-2]) > float(row[5][:-2])


def test_zeros_of_a_deployment_stand_once_and_int8_files_say_what_they_rounded(checkpoint):
    (file,) = inspect_path(str(checkpoint)).files
    tensors = file.record.tensors
    rounded = file.record.model_copy(
        update={"tensors": (tensors[0].model_copy(update={"zeros": tensors[0].zeros + 7}), *tensors[1:-1])}
    )
    int8 = file.model_copy(update={"format": "ONNX", "weight_types": ("i8",), "record": rounded, "rounded_zeros": 7})
    sparse = int8.model_copy(update={"sparse_operators": True})
    whole = inspect_path(str(checkpoint)).model_copy(update={"files": (file, int8, sparse), "contract": True})
    rows = tensor_rows(whole)
    assert rows.headers[4:] == ("zeros", "ONNX i8", "sparse i8")
    assert rows.rows[0][4:] == (str(tensors[0].required_zeros), "+7", "+7")
    assert rows.rows[1][4:] == (str(tensors[1].required_zeros), "", "")
    assert rows.rows[-1][4:] == (str(tensors[-1].required_zeros), "-", "-")
    assert tensor_rows(whole.model_copy(update={"contract": False})).headers[4:] == (
        "PyTorch f32", "ONNX i8", "sparse i8",
    )  # fmt: skip


def test_files_with_the_same_answer_share_a_heading():
    def finding(file, verdict=Verdict.NO_EFFECT):
        return Finding(runtime="OpenVINO", file=file, verdict=verdict, explanation="because")

    headings = [
        heading for heading, _ in benefit_rows([finding("a"), finding("b", Verdict.WITH_SETTING), finding("c")])
    ]
    assert headings == ["OpenVINO (a, c): no effect", "OpenVINO (b): with a setting"]
