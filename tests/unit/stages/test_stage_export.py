# SPDX-License-Identifier: Apache-2.0
"""The export stage on a tiny sparse BERT and real demo text: contents, contract, parity, refusals."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from openvino_extension import needs_extension
from tiny_tokenizer import PIECES, save_tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from sparse_deploy import checkpoint as checkpoints
from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.config.loader import recipe_from_mapping
from sparse_deploy.config.schema import Int8Mode, Recipe, Target
from sparse_deploy.errors import (
    ArtifactError,
    CheckpointError,
    ConfigError,
    ExitCode,
    ExportError,
    ParityError,
    PatternMismatchError,
    RuntimeUnavailableError,
    SparsityLostError,
)
from sparse_deploy.evaluation.zeros import recount_zeros
from sparse_deploy.graph import openvino_ir, weights
from sparse_deploy.graph.model_file import load_onnx
from sparse_deploy.inspection.inspect import inspect_path
from sparse_deploy.inspection.readers import read_onnx, read_openvino
from sparse_deploy.machine import describe_machine
from sparse_deploy.runtimes import get_runtime, saturation
from sparse_deploy.stages import target_cpu
from sparse_deploy.stages.candidates import find_candidates
from sparse_deploy.stages.export import export_deployment

pytestmark = pytest.mark.usefixtures("reused_traces")
MODEL_FILES = (
    "model.onnx", "openvino_model.xml", "model_int8.onnx", "openvino_model_int8.xml", "model_sparse.onnx",
)  # fmt: skip
INT8_FILES = ("model_int8.onnx", "openvino_model_int8.xml", "model_sparse.onnx")


def make_checkpoint(folder: Path, **changes: object) -> Path:
    """A tiny classifier whose encoder holds 4x1 blocks of zeros, 75 % of all."""
    save_tiny_tokenizer(folder, 64)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=PIECES, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.4, **changes,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "encoder" in name:
                rows, columns = parameter.shape
                blocks = torch.rand(rows // 4, columns) < 0.75
                parameter[blocks.repeat_interleave(4, 0)] = 0
    model.save_pretrained(folder)
    return folder


def recipe(**changes: object) -> Recipe:
    data = {
        "name": "tiny",
        "task": "demo",
        "model": {"name_or_path": "unused"},
        "data": {"max_length": 64},
        "sparsity": {"mode": "lock", "pattern": "4x1", "target": 0.74},
        "quantization": {"calibration_samples": 16},
        "export": {"int8_agreement": 0.7},
    }
    return recipe_from_mapping(data | changes, "test")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def deployment(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "deployment"
    export_deployment(str(source), recipe(), output)
    return output


def test_folder_is_whole(deployment: Path, source: Path) -> None:
    manifest = load_manifest(deployment, "deployment")
    present = {path.name for path in deployment.iterdir()}
    assert present >= {*MODEL_FILES, "openvino_model.bin", "openvino_model_int8.bin", "config.json", "tokenizer.json"}
    assert present - {"manifest.json"} == {record.path for record in manifest.files}
    assert (deployment / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert not list(deployment.parent.glob(".*partial"))


def test_every_file_keeps_every_zero(deployment: Path, source: Path) -> None:
    required = checkpoints.zero_masks(source, recipe().sparsity.exclude)
    assert len(required) == 12
    for name in MODEL_FILES:
        read = weights.read_zero_masks if name.endswith(".onnx") else openvino_ir.read_zero_masks
        found = read(deployment / name)
        for tensor, mask in required.items():
            assert (found[tensor] | ~mask).all(), (name, tensor)
            if name not in INT8_FILES:
                np.testing.assert_array_equal(found[tensor], mask)


def test_manifest_records_all_files_alike(deployment: Path) -> None:
    manifest = load_manifest(deployment, "deployment")
    assert set(manifest.sparsity) == {"model.safetensors", *MODEL_FILES}
    fingerprints = {
        name: {tensor.name: (tensor.mask_sha256, tensor.required_zeros, tensor.pattern) for tensor in record.tensors}
        for name, record in manifest.sparsity.items()
    }
    assert all(fingerprint == fingerprints["model.safetensors"] for fingerprint in fingerprints.values())
    assert {pattern for _, _, pattern in fingerprints["model.onnx"].values()} == {"block 4x1"}
    assert manifest.details["parity"]["model.onnx"]["max_abs"] <= recipe().export.atol
    assert manifest.details["calibration"]["examples"] == 16


def test_int8_weights_are_stored_as_int8(deployment: Path) -> None:
    stored = {weight.name: weight for weight in weights.read_weights(load_onnx(deployment / "model_int8.onnx"))}
    prunable = [weight for name, weight in stored.items() if "encoder" in name]
    assert len(prunable) == 12
    assert all(weight.values.dtype == np.int8 and not weight.zero_point.any() for weight in prunable)


def test_plain_runtimes_take_the_folder(deployment: Path) -> None:
    import onnxruntime
    import openvino as ov

    batch = {name: np.ones((2, 5), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    onnx_answer = onnxruntime.InferenceSession(deployment / "model.onnx").run(["logits"], batch)[0]
    compiled = ov.Core().compile_model(deployment / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(batch)["logits"], onnx_answer, atol=1e-4)


def refused(source: Path, tmp_path: Path, settings: Recipe, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        export_deployment(str(source), settings, tmp_path / "out", int8=Int8Mode.NONE)
    assert not list(tmp_path.iterdir())


def test_wrong_task_is_refused(source: Path, tmp_path: Path) -> None:
    refused(source, tmp_path, recipe(task="squad"), ConfigError, "ForQuestionAnswering")
    refused(source, tmp_path, recipe(task="mnli"), ConfigError, "expected 3 output")


def test_missing_pattern_is_refused(source: Path, tmp_path: Path) -> None:
    promise = {"mode": "lock", "pattern": "1x4", "target": 0.7}
    refused(source, tmp_path, recipe(sparsity=promise), PatternMismatchError, "block 1x4")


def test_truncated_weights_are_refused(source: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(source, tmp_path / "damaged")
    whole = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(whole[:-100])
    (tmp_path / "work").mkdir()
    refused(damaged, tmp_path / "work", recipe(), CheckpointError, "truncated")


def test_broken_parity_leaves_nothing(source: Path, tmp_path: Path) -> None:
    refused(source, tmp_path, recipe(export={"atol": 1e-12}), ParityError, "model.onnx")


def test_a_lost_zero_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def revive(path: Path) -> dict[str, np.ndarray]:
        masks = dict(original(path))
        name = next(name for name in masks if "encoder" in name)
        masks[name] = masks[name].copy()
        masks[name][tuple(axis[0] for axis in np.nonzero(masks[name]))] = False
        return masks

    original = openvino_ir.read_zero_masks
    monkeypatch.setattr(openvino_ir, "read_zero_masks", revive)
    refused(source, tmp_path, recipe(), SparsityLostError, "openvino_model.xml.*1 zeros were lost")


def test_full_disk_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_bytes(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    refused(source, tmp_path, recipe(), ArtifactError, "disk is full")


def test_sharded_checkpoint_becomes_one_file(source: Path, tmp_path: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(source)
    sharded = shutil.copytree(source, tmp_path / "sharded", ignore=shutil.ignore_patterns("model.safetensors"))
    model.save_pretrained(sharded, max_shard_size="50KB")
    settings = recipe(export={"openvino": False})
    manifest = export_deployment(str(sharded), settings, tmp_path / "out", int8=Int8Mode.NONE)
    assert [record.path for record in manifest.files if record.path.endswith(".safetensors")] == ["model.safetensors"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_size"] == 32


def test_dynamic_int8_keeps_int8_weights_in_onnx_and_ir(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    manifest = export_deployment(str(source), recipe(), output, int8=Int8Mode.DYNAMIC)
    required = checkpoints.zero_masks(source, recipe().sparsity.exclude)
    onnx_masks = weights.read_zero_masks(output / "model_int8.onnx")
    ir_weights = {weight.name: weight for weight in openvino_ir.read_weights_of_ir(output / "openvino_model_int8.xml")}
    for name, mask in required.items():
        assert ir_weights[name].stored_type == "i8"
        assert (onnx_masks[name] | ~mask).all()
        np.testing.assert_array_equal(ir_weights[name].zeros, onnx_masks[name])
    assert manifest.recipe["quantization"]["mode"] == manifest.details["int8"] == "dynamic"
    assert not [path for path in output.iterdir() if path.is_dir()]


@pytest.fixture(scope="module")
def eight_bits(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment for CPUs with VNNI only."""
    output = tmp_path_factory.mktemp("eight-bits") / "deployment"
    export_deployment(str(source), recipe(quantization={"calibration_samples": 16, "target_cpu": "vnni"}), output)
    return output


def test_what_the_int8_weights_are_is_in_manifest_and_inspection(eight_bits, capsys):
    found = load_manifest(eight_bits).details["int8_weights"]
    assert {"target_cpu": "vnni", "bits": 8, "saturates_without_vnni": True}.items() <= found.items()
    assert found["largest_neighbour_sum"] > 128
    assert run(["inspect", "--json", str(eight_bits)]) == ExitCode.OK
    files = json.loads(capsys.readouterr().out)["files"]
    int8 = {"model_int8.onnx", "openvino_model_int8.xml"}
    assert {file["path"] for file in files if file["weight_bits"] == 8} == {*int8, "model_sparse.onnx"}
    assert {file["path"] for file in files if file["saturates_without_vnni"]} == int8  # not the sparse operators
    assert run(["inspect", str(eight_bits)]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if "i8, needs VNNI" in line} == int8


def test_runtimes_do_not_answer_wrongly_where_a_file_saturates(eight_bits, deployment, monkeypatch):
    small = describe_machine().model_copy(update={"flags": ("avx2", "fma")})
    monkeypatch.setattr(saturation, "describe_machine", lambda: small)
    assert "session.x64quantprecision" in get_runtime("onnxruntime").open(eight_bits, "int8", 1).warning
    with pytest.raises(RuntimeUnavailableError, match=r"openvino_model_int8\.xml: its 8-bit .*target_cpu any"):
        get_runtime("openvino").open(eight_bits, "int8", 1)
    cells, skipped = find_candidates(eight_bits, recipe())
    assert {cell.id for cell in cells} >= {"onnxruntime-int8", "openvino-fp32", "sparse-int8"}
    assert "saturate" in skipped["openvino-int8"]
    (warning,) = inspect_path(str(eight_bits), machine=small).warnings
    assert "model_int8.onnx, openvino_model_int8.xml" in warning
    # The default is made for it.
    assert not get_runtime("onnxruntime").open(deployment, "int8", 1).warning
    get_runtime("openvino").open(deployment, "int8", 1).close()
    assert "openvino-int8" not in find_candidates(deployment, recipe())[1]
    assert not inspect_path(str(deployment), machine=small).warnings


@pytest.mark.parametrize(("saturates", "chosen"), [(True, "any"), (False, "vnni")])
def test_auto_is_this_machine(monkeypatch, saturates, chosen):
    flags = ("avx2",) if saturates else ("avx2", "avx_vnni")
    machine = describe_machine().model_copy(update={"flags": flags})
    monkeypatch.setattr(target_cpu, "describe_machine", lambda: machine)
    asked = recipe(quantization={"target_cpu": "auto"})
    assert target_cpu.with_target_cpu(asked).quantization.target_cpu == chosen
    assert target_cpu.with_target_cpu(recipe()) == recipe()


def test_the_default_is_right_on_every_cpu(deployment):
    assert load_manifest(deployment).details["int8_weights"]["largest_neighbour_sum"] in (127, 128)
    for name, read in (("model_int8.onnx", read_onnx), ("openvino_model_int8.xml", read_openvino)):
        assert not read(deployment / name, ()).saturates_without_vnni


class TestSparseTarget:
    """``model_sparse.onnx``: the conditions for writing it, its source, and its checks."""

    def export(self, source: Path, output: Path, **changes: object):
        """Without OpenVINO, which these tests don't need."""
        export = {"openvino": False, "int8_agreement": 0.7} | changes.pop("export", {})
        targets, int8 = changes.pop("targets", ()), changes.pop("int8", Int8Mode.NONE)
        return export_deployment(str(source), recipe(export=export, **changes), output, int8=int8, targets=targets)

    def test_the_manifest_says_what_became_an_operator(self, deployment):
        details = load_manifest(deployment).details
        assert details["sparse"]["encoder_layers"] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
        assert details["sparse"]["source"] == "model.onnx"
        assert set(details["sparse"]["left_standard"]) == {"bert.pooler.dense.weight", "classifier.weight"}
        assert "ONNX Runtime" in details["sparse"]["checked_with"]
        assert details["parity"]["model_sparse.onnx"]["rows"] == 61
        assert details["parity"]["model_sparse.onnx"]["mean_abs"] < 0.05

    def test_it_is_smaller_than_dense_int8(self, deployment):
        assert (deployment / "model_sparse.onnx").stat().st_size < (deployment / "model_int8.onnx").stat().st_size

    def test_without_int8_only_when_asked_for(self, source, tmp_path):
        plain = self.export(source, tmp_path / "plain")
        assert "sparse" not in plain.details
        asked = self.export(source, tmp_path / "asked", targets=[Target.SPARSE])
        assert {record.path for record in asked.files} - {record.path for record in plain.files} == {
            "model_sparse.onnx"
        }
        assert asked.recipe["export"]["sparse"]["enabled"] is True

    def test_it_can_be_switched_off(self, source, tmp_path):
        off = {"sparse": {"enabled": False}}
        manifest = self.export(source, tmp_path / "out", int8=Int8Mode.DYNAMIC, export=off)
        assert "model_sparse.onnx" not in {record.path for record in manifest.files}

    def test_calibrated_scales_come_from_the_int8_file(self, source, tmp_path):
        static = {"sparse": {"source": "int8", "activations": "static"}}
        manifest = self.export(source, tmp_path / "out", int8=Int8Mode.STATIC, export=static)
        assert manifest.details["sparse"]["source"] == "model_int8.onnx"
        names = load_onnx(tmp_path / "out" / "model_sparse.onnx").graph.initializers
        assert "bert.encoder.layer.0.x_scale" in names

    @pytest.mark.parametrize("mode", [Int8Mode.NONE, Int8Mode.DYNAMIC])
    def test_the_int8_source_needs_static_int8(self, source, tmp_path, mode):
        settings = {"sparse": {"source": "int8", "enabled": True}}
        with pytest.raises(ConfigError, match=r"source int8 needs quantization\.mode static; use source fp32"):
            self.export(source, tmp_path / "out", int8=mode, export=settings)

    def test_static_activations_need_the_int8_source(self):
        with pytest.raises(ConfigError, match="activations static needs source int8"):
            recipe(export={"sparse": {"activations": "static"}})

    def test_excluded_layers_stay_fp32(self, source, tmp_path):
        quantization = {"calibration_samples": 16, "exclude": ["layer.1.output"]}
        manifest = self.export(source, tmp_path / "out", targets=[Target.SPARSE], quantization=quantization)
        assert manifest.details["sparse"]["encoder_layers"] == ["bert.encoder.layer.0"]
        assert len(manifest.details["sparse"]["linears"]) == 5

    @needs_extension
    def test_its_ir_holds_the_same_zeros(self, source, tmp_path):
        manifest = self.export(source, tmp_path / "out", targets=[Target.OPENVINO_SPARSE])
        sparse, compiled = (manifest.sparsity[name] for name in ("model_sparse.onnx", "openvino_sparse.xml"))
        assert compiled.tensors == sparse.tensors
        assert manifest.details["parity"]["openvino_sparse.xml"]["rows"] == 61
        recount = recount_zeros(tmp_path / "out", ["openvino_sparse.xml"], manifest, recipe().sparsity)
        counted = recount.counts["openvino_sparse.xml"]
        assert counted.kept == counted.required > 0
        (found,) = inspect_path(str(tmp_path / "out" / "openvino_sparse.xml")).files
        assert found.sparse_operators
        assert found.weight_types == ("i8",)

    @needs_extension
    def test_a_lost_zero_of_its_ir_stops_the_export(self, source, tmp_path, monkeypatch):
        def revive(path):
            return {name: np.zeros_like(mask) for name, mask in original(path).items()}

        original = openvino_ir.read_zero_masks
        monkeypatch.setattr(openvino_ir, "read_zero_masks", revive)
        with pytest.raises(SparsityLostError, match=r"openvino_sparse\.xml"):
            self.export(source, tmp_path / "out", targets=[Target.OPENVINO_SPARSE])
        assert not (tmp_path / "out").exists()

    def test_its_ir_needs_the_extension(self, source, tmp_path, without_operators):
        with pytest.raises(RuntimeUnavailableError):
            self.export(source, tmp_path / "out", targets=[Target.OPENVINO_SPARSE])

    def test_it_is_written_and_checked_without_the_compiled_operators(self, source, tmp_path, without_operators):
        manifest = self.export(source, tmp_path / "out", targets=[Target.SPARSE])
        assert "in numpy" in manifest.details["sparse"]["checked_with"]
        assert manifest.details["parity"]["model_sparse.onnx"]["rows"] == 61

    def test_wrong_answers_leave_nothing(self, source, tmp_path, monkeypatch):
        from sparse_deploy.graph import pack_weights

        def wrong(weight):
            stored, scale = original(weight)
            return stored, scale * np.where(np.arange(len(scale)) % 2, 3, -3).astype(np.float32)

        original = pack_weights.quantize
        monkeypatch.setattr(pack_weights, "quantize", wrong)
        with pytest.raises(ParityError, match=r"model_sparse\.onnx.*; name layers to exclude in quantization\.exclude"):
            self.export(source, tmp_path / "out", targets=[Target.SPARSE], export={"int8_agreement": 0.95})
        assert not list(tmp_path.iterdir())

    def test_a_model_without_anything_to_replace(self, tmp_path):
        dense = {"sparsity": {"mode": "none"}}
        model = make_checkpoint(tmp_path / "silu", hidden_act="silu")
        weights_file = BertForSequenceClassification.from_pretrained(model)
        with torch.no_grad():
            for name, parameter in weights_file.named_parameters():
                if parameter.ndim == 2 and "encoder" in name:
                    parameter[parameter == 0] = 0.01
        weights_file.save_pretrained(model)
        (tmp_path / "work").mkdir()
        with pytest.raises(ExportError, match=r"model_sparse\.onnx: expected encoder layers or weights with zeros"):
            self.export(model, tmp_path / "work" / "out", targets=[Target.SPARSE], **dense)
        assert not list((tmp_path / "work").iterdir())
