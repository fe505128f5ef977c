# SPDX-License-Identifier: Apache-2.0
"""Deliberately damaged deployments: each is caught by the right gate, with the right verdict and exit code.

Every damaged folder gets a manifest that describes it, so that the hashes don't stop it first. `docs/ci.md` has the
table; what a run without a stored baseline can't see is tested, too.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from learnt_deployment import write_text
from onnx import numpy_helper

from sparse_deploy.artifacts import MANIFEST_NAME, load_manifest, seal
from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode

LAYER = "bert.encoder.layer.0.intermediate.dense.weight"
FILES = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
GOALS = [
    {"metric": "accuracy", "type": "max-degradation", "value": 0.02},
    {"metric": "logit_drift", "type": "at-most", "value": 0.001},
]
Damage = Callable[[Path], None]


class Gate:
    """The good deployment with its stored baseline, and the gate over damaged copies of it."""

    def __init__(self, folder: Path, baseline: Path):
        self.folder, self.baseline = folder, baseline

    def damaged(self, target: Path, damage: Damage, *, reseal: bool = True) -> Path:
        """A damaged copy whose manifest is consistent again."""
        shutil.copytree(self.folder / "deployment", target)
        damage(target)
        if reseal:
            manifest = load_manifest(target, verify=False)
            (target / MANIFEST_NAME).unlink()
            seal(target, manifest)
        return target

    def judge(self, deployment: Path, *arguments: str, goals: list[dict] = GOALS, against: bool = True) -> tuple:
        """Exit code, and the gates by cell and metric."""
        report = deployment.with_name(f"{deployment.name}-report")
        command = ["bench", str(deployment), "--data-dir", str(self.folder / "data"), "--gate", "--no-latency"]
        command += ["--report", str(report), "--set", f"goals={json.dumps(goals)}", *arguments]
        code = run(command + (["--against", str(self.baseline)] if against else []))
        if not (report / "gate.json").is_file():
            return code, {}
        found = json.loads((report / "gate.json").read_text())
        assert found["exit_code"] == code
        return code, {(gate["cell"], gate["goal"]["metric"]): gate for gate in found["gates"]}


@pytest.fixture(scope="module")
def gate(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    good = Gate(learnt, tmp_path_factory.mktemp("baseline") / "baseline.json")
    copy = good.damaged(good.baseline.with_name("good"), lambda folder: None)
    command = ("--runtime", "pytorch", "--runtime", "onnxruntime", "--save-baseline", str(good.baseline))
    code, gates = good.judge(copy, *command, goals=GOALS[:1], against=False)
    assert code == ExitCode.OK
    assert {found["verdict"] for found in gates.values()} == {"pass"}
    return good


def only(precision: str) -> tuple[str, ...]:
    return "--runtime", "onnxruntime", "--precision", precision


def edit(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace an initializer of an ONNX file."""
    model = onnx.load(path)
    (tensor,) = [one for one in model.graph.initializer if one.name == name]
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(values.copy()).astype(values.dtype), name))
    onnx.save(model, path)


def scale_layer(precision: str, factor: float) -> Damage:
    """The weights of a layer off by a factor: themselves in FP32, their scale in INT8."""

    def damage(folder: Path) -> None:
        path, name = folder / FILES[precision], LAYER
        if precision == "int8":
            nodes = onnx.load(path).graph.node
            (name,) = [node.input[1] for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] == LAYER]
        edit(path, name, lambda values: values * factor)

    return damage


def revive_zeros(precision: str) -> Damage:
    def change(values: np.ndarray) -> np.ndarray:
        places = np.flatnonzero(values == 0)[:3]
        values.reshape(-1)[places] = 1 if precision == "int8" else 1e-3
        return values

    return lambda folder: edit(folder / FILES[precision], LAYER, change)


def swap_labels(folder: Path) -> None:
    for name in ("classifier.weight", "classifier.bias"):
        edit(folder / "model.onnx", name, lambda values: np.flip(values, values.shape.index(2)))


def shuffle_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    words = [word for word in vocabulary if not word.startswith("[")]
    ids = [vocabulary[word] for word in words]
    vocabulary |= dict(zip(words, np.roll(ids, 57).tolist(), strict=True))
    path.write_text(json.dumps(content))


def keep_upper_case(folder: Path) -> None:
    path = folder / "tokenizer_config.json"  # Transformers takes this from here, whatever tokenizer.json says
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": False}))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_undamaged_model_passes_against_its_baseline(gate, tmp_path, precision):
    copy = gate.damaged(tmp_path / "copy", lambda folder: None)
    code, gates = gate.judge(copy, *only(precision))
    assert code == ExitCode.OK
    assert {found["verdict"] for found in gates.values()} == {"pass"}
    assert gates[f"onnxruntime-{precision}", "logit_drift"]["value"] < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_scale_five_percent_off_drifts_while_accuracy_sees_nothing(gate, tmp_path, precision):
    code, gates = gate.judge(gate.damaged(tmp_path / "d", scale_layer(precision, 1.05)), *only(precision))
    assert code == ExitCode.GATE_FAILED
    assert gates[f"onnxruntime-{precision}", "logit_drift"]["verdict"] == "fail"
    assert gates[f"onnxruntime-{precision}", "logit_drift"]["value"] > 0.01
    assert gates[f"onnxruntime-{precision}", "accuracy"]["verdict"] in ("pass", "inconclusive")


def test_without_a_stored_baseline_the_difference_from_pytorch_shows_it(gate, tmp_path):
    goals = [GOALS[0], {"metric": "logit_difference", "type": "at-most", "value": 0.001}]
    command = ("--runtime", "pytorch", "--runtime", "onnxruntime", "--precision", "fp32")
    deployment = gate.damaged(tmp_path / "d", scale_layer("fp32", 1.05))
    code, gates = gate.judge(deployment, *command, goals=goals, against=False)
    assert code == ExitCode.GATE_FAILED
    assert gates["onnxruntime-fp32", "logit_difference"]["verdict"] == "fail"
    assert gates["onnxruntime-fp32", "accuracy"]["verdict"] != "fail"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_scale_strongly_off_fails_the_accuracy_gate(gate, tmp_path, precision):
    # Large factors alone may cost a tiny model two points only, as its training happens to end; a lost sign costs 90.
    deployment = gate.damaged(tmp_path / "d", scale_layer(precision, -5.0))
    code, gates = gate.judge(deployment, *only(precision), goals=GOALS[:1])
    assert code == ExitCode.GATE_FAILED
    found = gates[f"onnxruntime-{precision}", "accuracy"]
    assert found["verdict"] == "fail"
    assert found["evidence"]["low"] > 0.02


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_revived_zeros_fail_the_sparsity_gate_by_name(gate, tmp_path, precision):
    deployment = gate.damaged(tmp_path / "d", revive_zeros(precision))
    code, gates = gate.judge(deployment, *only(precision), goals=GOALS[:1])
    assert code == ExitCode.GATE_FAILED
    found = gates[f"onnxruntime-{precision}", "sparsity"]
    assert found["verdict"] == "fail"
    assert LAYER in found["explanation"]
    assert gates[f"onnxruntime-{precision}", "accuracy"]["verdict"] == "pass"


def test_swapped_labels_of_one_file_fail_the_accuracy_gate(gate, tmp_path):
    code, gates = gate.judge(gate.damaged(tmp_path / "d", swap_labels), *only("fp32"), goals=GOALS[:1])
    assert code == ExitCode.GATE_FAILED
    assert gates["onnxruntime-fp32", "accuracy"]["evidence"]["drop"] > 0.5


def test_swapped_labels_of_the_data_are_other_rows(gate, tmp_path, capsys):
    data = write_text(tmp_path / "swapped", swapped=True)
    code, _ = gate.judge(gate.damaged(tmp_path / "d", lambda folder: None), *only("fp32"), "--data-dir", str(data))
    assert code == ExitCode.USAGE
    assert "row" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [shuffle_vocabulary, keep_upper_case])
def test_another_tokenizer_is_refused_against_a_stored_baseline(gate, tmp_path, damage, capsys):
    code, gates = gate.judge(gate.damaged(tmp_path / "d", damage), *only("fp32"))
    assert (code, gates) == (ExitCode.USAGE, {})
    assert "tokenizer" in capsys.readouterr().err


def test_without_one_only_a_threshold_sees_the_tokenizer_for_all_cells_share_it(gate, tmp_path):
    goals = [
        {"metric": "agreement", "type": "threshold", "value": 0.99},
        {"metric": "accuracy", "type": "max-degradation", "value": 0.02},
        {"metric": "sparsity", "type": "threshold", "value": 0.7},
    ]
    command = ("--runtime", "pytorch", "--runtime", "onnxruntime", "--precision", "fp32")
    deployment = gate.damaged(tmp_path / "d", shuffle_vocabulary)
    code, gates = gate.judge(deployment, *command, goals=goals, against=False)
    assert code == ExitCode.OK
    assert gates["onnxruntime-fp32", "accuracy"]["value"] < 0.8
    threshold = [{"metric": "accuracy", "type": "threshold", "value": 0.9}]
    code, gates = gate.judge(deployment, *only("fp32"), goals=threshold, against=False)
    assert code == ExitCode.GATE_FAILED
    assert gates["onnxruntime-fp32", "accuracy"]["verdict"] == "fail"


def test_a_manifest_that_does_not_describe_the_folder_stops_it_before_anything_runs(gate, tmp_path, capsys):
    deployment = gate.damaged(tmp_path / "d", scale_layer("fp32", 1.05), reseal=False)
    code, gates = gate.judge(deployment, *only("fp32"))
    assert (code, gates) == (ExitCode.BAD_ARTIFACT, {})
    assert "not the one that the manifest describes" in capsys.readouterr().err
