# SPDX-License-Identifier: Apache-2.0
"""One model in five files, written by hand: every reader counts the same zeros, and a lost one is an error."""

import json
import shutil

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from sparse_deploy.artifacts import Manifest, Source, seal, staged_folder
from sparse_deploy.errors import ArtifactError, CheckpointError, ConfigError, ExitCode, SparsityLostError
from sparse_deploy.export.openvino import convert_to_ir
from sparse_deploy.graph.model_file import load_onnx, save_onnx
from sparse_deploy.graph.sparse_model import to_sparse_model
from sparse_deploy.inspection.benefit import Verdict
from sparse_deploy.inspection.inspect import inspect_path
from sparse_deploy.inspection.readers import read_onnx, read_openvino
from sparse_deploy.machine import describe_machine
from sparse_deploy.sparsity.statistics import record_masks

UP, DOWN = "bert.encoder.layer.0.intermediate.dense.weight", "bert.encoder.layer.0.output.dense.weight"
HEAD = "classifier.weight"
SHAPES = {UP: (128, 64), DOWN: (64, 128), HEAD: (2, 64)}
EXCLUDE = ("classifier",)
FILES = ["model.safetensors", "model.onnx", "model_int8.onnx", "openvino_model.xml", "openvino_model_int8.xml"]


def pattern_mask(pattern, shape, seed=0):
    rng = np.random.default_rng(seed)
    rows, columns = shape
    if pattern == "1:2":
        return (rng.random((rows, columns // 2, 2)).argsort(axis=2) >= 1).reshape(shape)
    height, width = {"unstructured": (1, 1), "block 4x1": (4, 1), "block 1x4": (1, 4)}[pattern]
    share = 0.7 if pattern == "unstructured" else 0.8
    grid = rng.random((rows // height, columns // width)) < share
    return np.kron(grid, np.ones((height, width), dtype=bool)).astype(bool)


def make_weights(pattern):
    rng = np.random.default_rng(1)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    for seed, name in enumerate((UP, DOWN)):
        weights[name][pattern_mask(pattern, SHAPES[name], seed)] = 0.0
    return weights


def quantized(weight):
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-6) / 127  # block 1x4 can prune a whole row
    return np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def onnx_model(nodes, initializers):
    graph = helper.make_graph(
        nodes,
        "hand_made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


CHAIN = ((UP, "x", "h"), (DOWN, "h", "y"), (HEAD, "y", "logits"))


def fp32_model(weights):
    """MatMul with weights stored [in, out]."""
    nodes = [helper.make_node("MatMul", [source, name], [to]) for name, source, to in CHAIN]
    return onnx_model(nodes, {name: np.ascontiguousarray(weight.T) for name, weight in weights.items()})


def int8_model(weights, activations=np.uint8):
    """QDQ around the encoder's products; the head stays FP32."""
    initializers = {HEAD: np.ascontiguousarray(weights[HEAD].T), "s": np.float32(0.05)}
    initializers["z"] = np.array(120 if activations is np.uint8 else 0, activations)
    nodes = []
    for name, source, to in CHAIN[:2]:
        stored, scale = quantized(weights[name])
        initializers |= {
            name: np.ascontiguousarray(stored.T),
            f"{name}_s": scale,
            f"{name}_z": np.zeros_like(stored[:, 0]),
        }
        nodes += [
            helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{source}_q"]),
            helper.make_node("DequantizeLinear", [f"{source}_q", "s", "z"], [f"{source}_d"]),
            helper.make_node("DequantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_d"], axis=1),
            helper.make_node("MatMul", [f"{source}_d", f"{name}_d"], [to]),
        ]
    nodes.append(helper.make_node("MatMul", ["y", HEAD], ["logits"]))
    return onnx_model(nodes, initializers)


def dynamic_model(weights):
    """One product of ONNX Runtime's dynamic quantizer."""
    stored, _ = quantized(weights[UP])
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", f"{UP}_quantized", "z", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["logits"]),
    ]
    return onnx_model(nodes, {f"{UP}_quantized": np.ascontiguousarray(stored.T), "wz": np.array(0, np.int8)})


def make_deployment(target, pattern, *, revive=None, extra_zeros=0, ir=True):
    """A complete deployment; ``revive``: index of a required zero that the INT8 file lacks."""
    weights = make_weights(pattern)
    required = {name: weights[name] == 0 for name in (UP, DOWN)}
    stored = {name: weight.copy() for name, weight in weights.items()}
    kept = np.argwhere(~required[UP])[:extra_zeros]
    stored[UP][tuple(kept.T)] = 0.0
    int8 = {name: weight.copy() for name, weight in stored.items()}
    if revive is not None:
        int8[DOWN][tuple(np.argwhere(required[DOWN])[revive])] = 1.0
    with staged_folder(target, "deployment") as staging:
        save_file(stored, staging / "model.safetensors")
        (staging / "config.json").write_text("{}")
        onnx.save(fp32_model(stored), staging / "model.onnx")
        onnx.save(int8_model(int8), staging / "model_int8.onnx")
        for source, name in (("model", "openvino_model"), ("model_int8", "openvino_model_int8")) if ir else ():
            convert_to_ir(staging / f"{source}.onnx", staging / f"{name}.xml")
        record = record_masks(required)
        seal(
            staging,
            Manifest(
                kind="deployment",
                task="sst2",
                source=Source(name_or_path="x"),
                recipe={"sparsity": {"exclude": EXCLUDE}},
                sparsity=dict.fromkeys(FILES, record),
            ),
        )


def test_a_file_with_sparse_operators_is_read_and_asked_of_no_other_runtime(tmp_path):
    weights = make_weights("block 4x1")
    onnx.save(fp32_model(weights), tmp_path / "model.onnx")
    found = to_sparse_model(load_onnx(tmp_path / "model.onnx"))
    assert found.linears == (UP, DOWN)
    save_onnx(found.model, tmp_path / "model_sparse.onnx")
    content = read_onnx(tmp_path / "model_sparse.onnx", EXCLUDE)
    assert content.sparse_operators
    assert content.parameters == read_onnx(tmp_path / "model.onnx", EXCLUDE).parameters
    assert {(fact.weight_type, fact.activation_type) for fact in content.facts} == {("i8", "u8")}
    for name in (UP, DOWN):
        np.testing.assert_array_equal(content.masks[name], quantized_to_zero(weights[name]))
    inspection = inspect_path(str(tmp_path / "model_sparse.onnx"), exclude=EXCLUDE)
    assert {tensor.pattern for tensor in inspection.files[0].record.tensors} == {"block 4x1"}
    assert "OpenVINO" not in {finding.runtime for finding in inspection.findings}
    decisions = next(f for f in inspection.findings if f.decisions).decisions
    assert [decision.name for decision in decisions] == [UP, DOWN]


def quantized_to_zero(weight):
    return quantized(weight)[0] == 0


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Deployments made once; tests that alter one copy it."""
    made = {}

    def build(pattern="unstructured", **faults):
        key = (pattern, *sorted(faults.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("deployment") / "out"
            make_deployment(folder, pattern, **faults)
            made[key] = folder
        return made[key]

    return build


def required_counts(inspection):
    return {file.path: {t.name: t.required_zeros for t in file.record.tensors} for file in inspection.files}


@pytest.mark.parametrize("pattern", ["unstructured", "1:2", "block 4x1", "block 1x4"])
def test_all_five_files_show_the_same_zeros(built, pattern):
    weights = make_weights(pattern)
    expected = {name: int((weights[name] == 0).sum()) for name in (UP, DOWN)}
    found = inspect_path(str(built(pattern)))
    assert (found.kind, found.contract, found.warnings) == ("deployment", True, ())
    assert required_counts(found) == dict.fromkeys(FILES, expected)
    for file in found.files:
        assert {t.pattern for t in file.record.tensors} == {pattern}
        assert {t.name: t.shape for t in file.record.tensors} == {UP: (128, 64), DOWN: (64, 128)}
        assert file.sparsity_of_prunable == pytest.approx(sum(expected.values()) / (2 * 64 * 128))
        assert file.sparsity_of_model == pytest.approx(sum(expected.values()) / (2 * 64 * 128 + 2 * 64))
    by_path = {file.path: file for file in found.files}
    rounded = sum(int(((quantized(weights[name])[0] == 0) & (weights[name] != 0)).sum()) for name in (UP, DOWN))
    assert rounded > 0
    assert [by_path[name].rounded_zeros for name in FILES] == [0, 0, rounded, 0, rounded]


@pytest.mark.parametrize("name", FILES[1:])
def test_lone_file_beside_its_manifest_shows_required_zeros(built, name):
    whole = inspect_path(str(built()))
    alone = inspect_path(str(built() / name))
    assert alone.contract
    assert alone.files == tuple(file for file in whole.files if file.path == name)


@pytest.mark.parametrize("pattern", ["unstructured", "1:2", "block 4x1", "block 1x4"])
def test_lone_file_elsewhere_shows_all_stored_zeros_and_the_pattern(tmp_path, pattern):
    weights = make_weights(pattern)
    onnx.save(int8_model(weights), tmp_path / "some.onnx")
    found = inspect_path(str(tmp_path / "some.onnx"))
    assert (found.kind, found.contract) == ("onnx", False)
    for tensor in found.files[0].record.tensors:
        assert tensor.zeros == tensor.required_zeros == int((quantized(weights[tensor.name])[0] == 0).sum())
        assert tensor.pattern == (pattern if pattern != "1:2" else tensor.pattern)


def test_one_revived_weight_is_an_error_with_exact_counts(built):
    folder = built(revive=17)
    required = int((make_weights("unstructured")[DOWN] == 0).sum())
    for path in (folder, folder / "model_int8.onnx", folder / "openvino_model_int8.xml"):
        with pytest.raises(SparsityLostError) as caught:
            inspect_path(str(path))
        assert (caught.value.tensor, caught.value.before, caught.value.after) == (DOWN, required, required - 1)
        assert caught.value.stage.endswith(("model_int8.onnx", "openvino_model_int8.xml"))
        assert caught.value.exit_code is ExitCode.BAD_ARTIFACT
    assert inspect_path(str(folder / "model.onnx")).files[0].rounded_zeros == 0


def test_tensor_that_a_file_lacks_is_an_error(tmp_path, built):
    shutil.copytree(built(), tmp_path / "out")
    onnx.save(dynamic_model(make_weights("unstructured")), tmp_path / "out" / "model_int8.onnx")  # holds UP only
    with pytest.raises(SparsityLostError, match=r"output\.dense"):
        inspect_path(str(tmp_path / "out" / "model_int8.onnx"))


def test_altered_deployment_is_refused(tmp_path, built):
    shutil.copytree(built(), tmp_path / "out")
    (tmp_path / "out" / "model.onnx").write_bytes(b"altered")
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        inspect_path(str(tmp_path / "out"))


def test_places_that_can_not_be_proven_are_a_warning(built):
    # The stored checkpoint holds three zeros more than the contract: no file has exactly the recorded mask.
    found = inspect_path(str(built(extra_zeros=3, ir=False)))
    assert len(found.warnings) == 1
    assert UP in found.warnings[0]
    assert "1 tensors" in found.warnings[0]


def test_too_few_zeros_everywhere_is_an_error(tmp_path, built):
    weights = make_weights("unstructured")
    with staged_folder(tmp_path / "worse", "deployment") as staging:
        worse = {name: weight.copy() for name, weight in weights.items()}
        worse[UP][tuple(np.argwhere(weights[UP] == 0)[0])] = 2.0
        save_file(worse, staging / "model.safetensors")
        (staging / "config.json").write_text("{}")
        manifest = Manifest.model_validate_json((built() / "manifest.json").read_bytes())
        seal(staging, manifest.model_copy(update={"kind": "checkpoint"}))
    with pytest.raises(SparsityLostError) as caught:
        inspect_path(str(tmp_path / "worse"))
    assert caught.value.before - caught.value.after == 1


def test_plain_checkpoint_folder(tmp_path, built):
    weights = make_weights("unstructured")
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(built() / name, plain)
    found = inspect_path(str(plain))
    assert (found.kind, found.contract) == ("checkpoint", False)
    assert required_counts(found) == {"model.safetensors": {n: int((weights[n] == 0).sum()) for n in (UP, DOWN)}}
    assert found.files[0].weight_types == ("f32",)
    assert found.files[0].left_out == (HEAD,)


def test_exclude_replaces_the_default(built):
    found = inspect_path(str(built() / "model.onnx"), exclude=("intermediate",))
    assert [t.name for t in found.files[0].record.tensors] == [DOWN, HEAD]
    assert found.files[0].left_out == (UP,)


def test_shared_weight_counts_once(tmp_path):
    weights = make_weights("unstructured")
    model = fp32_model(weights)
    model.graph.node.append(helper.make_node("MatMul", ["x", UP], ["second"]))
    onnx.save(model, tmp_path / "shared.onnx")
    found = inspect_path(str(tmp_path / "shared.onnx"))
    assert [t.name for t in found.files[0].record.tensors] == [UP, DOWN]


@pytest.mark.parametrize(
    ("build", "weight", "activation"),
    [
        (fp32_model, "f32", "f32"),
        (int8_model, "i8", "u8"),
        (lambda weights: int8_model(weights, np.int8), "i8", "i8"),
        (dynamic_model, "i8", "f32"),
    ],
    ids=["fp32", "static u8", "static i8", "dynamic"],
)
def test_data_types_are_those_that_openvino_runs(tmp_path, build, weight, activation):
    path = tmp_path / "model.onnx"
    onnx.save(build(make_weights("block 4x1")), path)
    facts = [read_onnx(path, EXCLUDE).facts]
    if activation != "f32":
        ov.save_model(ov.convert_model(path), tmp_path / "model.xml", compress_to_fp16=False)
        facts.append(read_openvino(tmp_path / "model.xml", EXCLUDE).facts)
    encoder = [f for file in facts for f in file if f.shape != SHAPES[HEAD]]  # the converter drops names
    assert all((f.weight_type, f.activation_type) == (weight, activation) for f in encoder)
    assert encoder

    def width(node):
        return node.output(0).get_partial_shape()[-1].get_length()

    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    nodes = compiled.get_runtime_model().get_ordered_ops()
    products = [node for node in nodes if node.get_rt_info()["layerType"].value == "FullyConnected"]
    executed = {node.input(0).get_element_type().get_type_name() for node in products if width(node) != 2}
    assert executed == {activation}


def test_findings_follow_the_machine(built):
    here = describe_machine()
    zen4 = here.model_copy(update={"flags": ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")})
    amx = here.model_copy(update={"flags": ("avx512_vnni", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")})
    without, with_amx = (
        {f.file: f for f in inspect_path(str(built()), machine=m).findings if f.runtime == "OpenVINO"}
        for m in (zen4, amx)
    )
    assert {f.verdict for f in without.values()} == {Verdict.NO_EFFECT}
    int8 = {"model_int8.onnx", "openvino_model_int8.xml"}
    assert {name for name, f in with_amx.items() if f.verdict is Verdict.WITH_SETTING} == int8
    assert {with_amx[name].suggested_rate for name in int8} == {0.69}  # the lower share of the two is 0.6997
    assert all(f.tensors_ready == 2 for name, f in with_amx.items() if name in int8)


def test_findings_survive_json(built):
    found = inspect_path(str(built()))
    assert type(found).model_validate_json(found.model_dump_json()) == found
    assert json.loads(found.model_dump_json())["schema_version"] == 1


@pytest.mark.parametrize("path", ["no/such/folder/at/all", "missing.onnx", "./missing.xml", "package:nothing_here/x"])
def test_nothing_there(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        inspect_path(path)


def test_files_of_other_kinds(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="expected a checkpoint folder"):
        inspect_path(str(tmp_path / "weights.safetensors"))
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ArtifactError):
        inspect_path(str(tmp_path / "text.onnx"))
    (tmp_path / "text.xml").write_text("<net>")
    with pytest.raises(ArtifactError):
        inspect_path(str(tmp_path / "text.xml"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        inspect_path(str(tmp_path))
