# SPDX-License-Identifier: Apache-2.0
"""Deliberately damaged deployments: each is caught by the right gate, with the right verdict and exit code.

Every damaged folder gets a manifest that describes it, so that the hashes do not refuse it first. `docs/ci.md` has the
table; damage that a run without a stored baseline can't find is tested, too.
"""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino_extension
import pytest
from learnt_deployment import write_text
from onnx import numpy_helper

from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.artifacts import load_manifest, seal
from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode
from sparse_deploy.sparsity.packing import decode, encode, read_header
from sparse_deploy.stages.sparse_target import write_sparse_ir

LAYER = "bert.encoder.layer.0.intermediate.dense.weight"
# The damaged file of each cell. The IR in FP32 stays whole: nothing is to be said of its cell.
FILES = {
    "onnxruntime-fp32": "model.onnx",
    "onnxruntime-int8": "model_int8.onnx",
    "openvino-int8": "openvino_model_int8.xml",
    "sparse-int8": "model_sparse.onnx",
}
if not openvino_extension.REASON:
    FILES["openvino-sparse-int8"] = "openvino_sparse.xml"
WHOLE = "openvino-fp32"
PACKED_FILES = [name for name in FILES.values() if "sparse" in name]
RUNTIMES = dict.fromkeys(cell.rsplit("-", 1)[0] for cell in FILES)
EVERY_RUNTIME = tuple(part for runtime in RUNTIMES for part in ("--runtime", runtime))
GOALS = [
    {"metric": "accuracy", "type": "max-degradation", "value": 0.02},
    {"metric": "logit_drift", "type": "at-most", "value": 0.001},
]
Damage = Callable[[Path], None]
Change = Callable[[np.ndarray], np.ndarray]
IR_TYPES = {"f32": np.float32, "i8": np.int8, "u8": np.uint8}


class Gate:
    """The good deployment with its stored baseline, and the gate over damaged copies of it."""

    def __init__(self, deployment: Path, data: Path, baseline: Path):
        self.deployment, self.data, self.baseline = deployment, data, baseline

    def damaged(self, target: Path, damage: Damage, *, reseal: bool = True) -> Path:
        """A damaged copy whose manifest is consistent again."""
        shutil.copytree(self.deployment, target)
        damage(target)
        if reseal:
            seal_again(target)
        return target

    def judge(self, deployment: Path, *arguments: str, goals: list[dict] = GOALS, against: bool = True) -> tuple:
        """Exit code, and the gates by cell and metric."""
        report = deployment.with_name(f"{deployment.name}-report")
        command = ["bench", str(deployment), "--data-dir", str(self.data), "--gate", "--no-latency"]
        command += ["--report", str(report), "--set", f"goals={json.dumps(goals)}", *arguments]
        code = run(command + (["--against", str(self.baseline)] if against else []))
        if not (report / "gate.json").is_file():
            return code, {}
        found = json.loads((report / "gate.json").read_text())
        assert found["exit_code"] == code
        return code, {(gate["cell"], gate["goal"]["metric"]): gate for gate in found["gates"]}


def seal_again(folder: Path) -> None:
    manifest = load_manifest(folder, verify=False)
    if (folder / "openvino_sparse.xml").is_file():
        manifest.sparsity["openvino_sparse.xml"] = manifest.sparsity["model_sparse.onnx"]
    (folder / MANIFEST_NAME).unlink()
    seal(folder, manifest)


@pytest.fixture(scope="module")
def gate(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    folder = tmp_path_factory.mktemp("gate")
    shutil.copytree(learnt / "deployment", folder / "deployment")
    if not openvino_extension.REASON:
        write_sparse_ir(folder / "deployment")
        seal_again(folder / "deployment")
    good = Gate(folder / "deployment", learnt / "data", folder / "baseline.json")
    copy = good.damaged(folder / "good", lambda folder: None)
    command = ("--runtime", "pytorch", *EVERY_RUNTIME, "--save-baseline", str(good.baseline))
    code, gates = good.judge(copy, *command, goals=GOALS[:1], against=False)
    assert code == ExitCode.OK
    assert {found["verdict"] for found in gates.values()} == {"pass"}
    assert {cell for cell, _ in gates} >= {*FILES, WHOLE}
    return good


def only(precision: str) -> tuple[str, ...]:
    return "--runtime", "onnxruntime", "--precision", precision


def edit(path: Path, name: str, change: Change) -> None:
    """Replace a constant of an ONNX file, or of an IR in its place."""
    if path.suffix == ".onnx":
        model = onnx.load(path)
        (tensor,) = [one for one in model.graph.initializer if one.name == name]
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(change(values.copy()).astype(values.dtype), name))
        onnx.save(model, path)
        return
    (data,) = [layer.find("data").attrib for layer in ET.parse(path).iter("layer") if layer.get("name") == name]
    place = slice(int(data["offset"]), int(data["offset"]) + int(data["size"]))
    content = bytearray(path.with_suffix(".bin").read_bytes())
    values = np.frombuffer(content[place], IR_TYPES[data["element_type"]])
    changed = change(values.copy()).astype(values.dtype).tobytes()
    assert len(changed) == len(content[place])
    content[place] = changed
    path.with_suffix(".bin").write_bytes(content)


def scale_behind(path: Path) -> str:
    """The name of the layer's scale: the input that follows its weight, in every format."""
    if path.suffix == ".onnx":
        (inputs,) = [list(node.input) for node in onnx.load(path).graph.node if LAYER in node.input]
        return inputs[inputs.index(LAYER) + 1]
    root = ET.parse(path).getroot()
    layers = {layer.get("id"): layer for layer in root.iter("layer")}
    edges = [edge.attrib for edge in root.iter("edge")]

    def reader(constant: str) -> tuple[str, int]:
        (edge,) = [edge for edge in edges if edge["from-layer"] == constant]
        found = edge["to-layer"], int(edge["to-port"])
        return reader(found[0]) if layers[found[0]].get("type") == "Convert" else found

    (weight,) = [number for number, layer in layers.items() if layer.get("name") == LAYER]
    node, port = reader(weight)
    (scale,) = [edge["from-layer"] for edge in edges if (edge["to-layer"], int(edge["to-port"])) == (node, port + 1)]
    return layers[scale].get("name")


def in_every_format(damage_file: Callable[[Path], None]) -> Damage:
    def damage(folder: Path) -> None:
        for name in FILES.values():
            damage_file(folder / name)

    return damage


def scale_layer(factor: float) -> Callable[[Path], None]:
    """The weights of a layer off by a factor: themselves in FP32, their scale in INT8."""

    def damage(path: Path) -> None:
        edit(path, LAYER if path.name == "model.onnx" else scale_behind(path), lambda values: values * factor)

    return damage


def revive_zeros(path: Path) -> None:
    """Three zeros come back and three weights go, so that packed weights keep their size."""

    def change(values: np.ndarray) -> np.ndarray:
        if values.dtype == np.uint8:
            return encode(change(decode(values)), read_header(values).encoding)
        flat = values.reshape(-1)
        zeros, kept = np.flatnonzero(flat == 0)[:3], np.flatnonzero(flat)[:3]
        flat[zeros], flat[kept] = 1e-3 if values.dtype == np.float32 else 1, 0
        return values

    edit(path, LAYER, change)


def flip_packed_bit(path: Path) -> None:
    def change(values: np.ndarray) -> np.ndarray:
        values[-1] ^= 1
        return values

    edit(path, LAYER, change)


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


def test_the_undamaged_model_passes_against_its_baseline(gate, tmp_path):
    code, gates = gate.judge(gate.damaged(tmp_path / "copy", lambda folder: None), *EVERY_RUNTIME)
    assert code == ExitCode.OK
    assert {found["verdict"] for found in gates.values()} == {"pass"}
    for cell in (*FILES, WHOLE):
        assert gates[cell, "logit_drift"]["value"] < 1e-5


def test_a_scale_five_percent_off_drifts_while_accuracy_sees_nothing(gate, tmp_path):
    code, gates = gate.judge(gate.damaged(tmp_path / "d", in_every_format(scale_layer(1.05))), *EVERY_RUNTIME)
    assert code == ExitCode.GATE_FAILED
    assert gates[WHOLE, "logit_drift"]["verdict"] == "pass"
    for cell in FILES:
        assert gates[cell, "logit_drift"]["verdict"] == "fail"
        assert gates[cell, "logit_drift"]["value"] > 0.002  # 0.008 to 0.022 over ten trainings
        assert gates[cell, "accuracy"]["verdict"] in ("pass", "inconclusive")


def test_without_a_stored_baseline_the_difference_from_pytorch_shows_it(gate, tmp_path):
    goals = [GOALS[0], {"metric": "logit_difference", "type": "at-most", "value": 0.001}]
    command = ("--runtime", "pytorch", "--runtime", "onnxruntime", "--precision", "fp32")
    deployment = gate.damaged(tmp_path / "d", in_every_format(scale_layer(1.05)))
    code, gates = gate.judge(deployment, *command, goals=goals, against=False)
    assert code == ExitCode.GATE_FAILED
    assert gates["onnxruntime-fp32", "logit_difference"]["verdict"] == "fail"
    assert gates["onnxruntime-fp32", "accuracy"]["verdict"] != "fail"


def test_a_scale_strongly_off_fails_the_accuracy_gate(gate, tmp_path):
    # Large factors alone may cost a tiny model two points only, as its training happens to end; a lost sign costs 90.
    deployment = gate.damaged(tmp_path / "d", in_every_format(scale_layer(-5.0)))
    code, gates = gate.judge(deployment, *EVERY_RUNTIME, goals=GOALS[:1])
    assert code == ExitCode.GATE_FAILED
    assert gates[WHOLE, "accuracy"]["verdict"] == "pass"
    for cell in FILES:
        assert gates[cell, "accuracy"]["verdict"] == "fail"
        assert gates[cell, "accuracy"]["evidence"]["low"] > 0.02


def test_revived_zeros_fail_the_sparsity_gate_by_name(gate, tmp_path):
    deployment = gate.damaged(tmp_path / "d", in_every_format(revive_zeros))
    code, gates = gate.judge(deployment, *EVERY_RUNTIME, goals=GOALS[:1])
    assert code == ExitCode.GATE_FAILED
    assert gates[WHOLE, "sparsity"]["verdict"] == "pass"
    for cell in FILES:
        assert gates[cell, "sparsity"]["verdict"] == "fail"
        assert LAYER in gates[cell, "sparsity"]["explanation"]
        assert gates[cell, "accuracy"]["verdict"] == "pass"


@pytest.mark.parametrize("name", PACKED_FILES)
def test_packed_weights_of_another_checksum_stop_it_before_anything_runs(gate, tmp_path, name, capsys):
    deployment = gate.damaged(tmp_path / "d", lambda folder: flip_packed_bit(folder / name))
    code, gates = gate.judge(deployment, *EVERY_RUNTIME)
    assert (code, gates) == (ExitCode.BAD_ARTIFACT, {})
    said = capsys.readouterr().err
    assert LAYER in said
    assert "checksum" in said


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
    deployment = gate.damaged(tmp_path / "d", in_every_format(scale_layer(1.05)), reseal=False)
    code, gates = gate.judge(deployment, *only("fp32"))
    assert (code, gates) == (ExitCode.BAD_ARTIFACT, {})
    assert "not the one that the manifest describes" in capsys.readouterr().err
