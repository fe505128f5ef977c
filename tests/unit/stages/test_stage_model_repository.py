# SPDX-License-Identifier: Apache-2.0
"""Model repositories, read by the parsers of the servers: Triton's own protobuf, ONNX Runtime, OpenVINO, YAML."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from google.protobuf import text_format
from tiny_deployment import BENCH_RECIPE, seal_deployment, write_models
from tritonclient.grpc import model_config_pb2

from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.cli.main import run
from sparse_deploy.errors import ArtifactError, ConfigError, ExitCode
from sparse_deploy.file_records import file_sha256
from sparse_deploy.stages.model_repository import RepositoryManifest, RepositoryOptions, write_model_repository
from sparse_deploy.stages.server_configs import Tensor, TritonSettings, triton_config

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
LENGTH = 7


def batch(rows: int = 3) -> dict[str, np.ndarray]:
    ids = np.arange(rows * LENGTH).reshape(rows, LENGTH).astype(np.int64) + 5
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def parse(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def onnx_logits(path: Path, library: Path | None = None) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(path, options).run(None, batch())


@pytest.fixture(scope="module")
def question_answering(sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qa") / "deployment"
    folder.mkdir()
    write_models(folder, sparse_encoder, question_answering=True)
    seal_deployment(folder, {**BENCH_RECIPE, "task": "squad"})
    return folder


@pytest.mark.parametrize(("precision", "source"), [(None, "model_int8.onnx"), ("fp32", "model.onnx")])
def test_triton_gets_the_model_and_a_config_that_its_parser_reads(tiny_deployment, tmp_path, precision, source):
    options = RepositoryOptions(server="triton", precision=precision, max_batch=16, max_delay_ms=0.5, threads=3)
    write_model_repository(tiny_deployment, tmp_path / "repository", options)
    config = parse(tmp_path / "repository" / "tiny" / "config.pbtxt")
    assert config.name == "tiny"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_CPU]
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert not config.HasField("model_operations")
    assert [tensor.name for tensor in config.input] == INPUTS
    assert {tensor.data_type for tensor in config.input} == {model_config_pb2.TYPE_INT64}
    assert all(list(tensor.dims) == [-1] for tensor in config.input)
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [("logits", [2])]
    model = tmp_path / "repository" / "tiny" / "1" / "model.onnx"
    np.testing.assert_array_equal(onnx_logits(model)[0], onnx_logits(tiny_deployment / source)[0])


def test_question_answering_has_its_own_outputs(question_answering, tmp_path):
    write_model_repository(question_answering, tmp_path / "out", RepositoryOptions(server="triton", name="qa"))
    config = parse(tmp_path / "out" / "qa" / "config.pbtxt")
    outputs = [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.output]
    fp32 = model_config_pb2.TYPE_FP32
    assert outputs == [("start_logits", fp32, [-1]), ("end_logits", fp32, [-1])]


def test_the_sparse_model_comes_with_its_operators_under_the_path_that_triton_sees(tiny_deployment, tmp_path):
    options = RepositoryOptions(server="triton", sparse=True, mount="/repositories/a")
    write_model_repository(tiny_deployment, tmp_path / "out", options)
    version = tmp_path / "out" / "tiny" / "1"
    library = version / "libsparse_deploy_onnxruntime.so"
    (named,) = parse(tmp_path / "out" / "tiny" / "config.pbtxt").model_operations.op_library_filename
    assert named == f"/repositories/a/tiny/1/{library.name}"
    code = (
        "import sys, onnxruntime\noptions = onnxruntime.SessionOptions()\n"
        "options.register_custom_ops_library(sys.argv[1])\n"
        "print(len(onnxruntime.InferenceSession(sys.argv[2], options).get_inputs()))"
    )  # in a process of its own: this one holds the installed copy of the library already
    command = [sys.executable, "-c", code, library, version / "model.onnx"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "3"


def test_openvino_model_server_gets_ir_and_a_config_with_a_relative_path(tiny_deployment, tmp_path):
    import openvino

    write_model_repository(tiny_deployment, tmp_path / "out", RepositoryOptions(server="ovms", threads=2))
    (entry,) = json.loads((tmp_path / "out" / "config.json").read_text())["model_config_list"]
    folder = tmp_path / "out" / entry["config"]["base_path"]
    assert entry["config"]["name"] == folder.name == "tiny"
    plugin = entry["config"]["plugin_config"]
    assert plugin["INFERENCE_NUM_THREADS"] == "2"
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(folder / "1" / "model.xml"), "CPU", plugin)
    direct = core.compile_model(core.read_model(tiny_deployment / "openvino_model_int8.xml"), "CPU", plugin)
    np.testing.assert_array_equal(compiled(batch())[0], direct(batch())[0])


def test_kserve_runs_our_image_on_the_deployment_with_probes_limits_and_no_rights(tiny_deployment, tmp_path):
    options = RepositoryOptions(server="kserve", name="sentiment", storage_uri="s3://models/a", image="r.example/s:1")
    write_model_repository(tiny_deployment, tmp_path / "out", options)
    service = yaml.safe_load((tmp_path / "out" / "inferenceservice.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    (container,) = service["spec"]["predictor"]["containers"]
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert variables["STORAGE_URI"] == "s3://models/a"
    assert variables["PROTOCOL"] == "v2"
    assert variables["SPARSE_DEPLOY_DEPLOYMENT"] == "/mnt/models"
    assert variables["SPARSE_DEPLOY_PORT"] == str(container["ports"][0]["containerPort"])
    assert container["name"] == "kserve-container"
    assert container["image"] == "r.example/s:1"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    triton = yaml.safe_load((tmp_path / "out" / "inferenceservice-triton.yaml").read_text())
    model = triton["spec"]["predictor"]["model"]
    assert model["protocolVersion"] == "v2"
    assert model["storageUri"] == "s3://models/a-triton"


def test_the_manifest_lists_every_file_and_names_the_deployment(tiny_deployment, tmp_path):
    write_model_repository(tiny_deployment, tmp_path / "out", RepositoryOptions(server="triton"))
    manifest = RepositoryManifest.model_validate_json((tmp_path / "out" / MANIFEST_NAME).read_bytes())
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {record.path for record in manifest.files} == files - {MANIFEST_NAME}
    assert all(file_sha256(tmp_path / "out" / record.path) == record.sha256 for record in manifest.files)
    assert manifest.deployment_manifest_sha256 == file_sha256(tiny_deployment / MANIFEST_NAME)


def test_an_earlier_repository_is_replaced_and_a_foreign_folder_is_not(tiny_deployment, tmp_path):
    output = tmp_path / "out"
    write_model_repository(tiny_deployment, output, RepositoryOptions(server="triton", name="first"))
    write_model_repository(tiny_deployment, output, RepositoryOptions(server="triton", name="second"))
    assert {path.name for path in output.iterdir()} == {MANIFEST_NAME, "second"}
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not replaced"):
        write_model_repository(tiny_deployment, tmp_path / "foreign", RepositoryOptions(server="triton"))


def test_a_failure_leaves_nothing_behind(tiny_deployment, tmp_path):
    folder = tmp_path / "without-sparse"
    shutil.copytree(tiny_deployment, folder)
    (folder / "model_sparse.onnx").unlink()
    seal_deployment(folder, BENCH_RECIPE)
    (tmp_path / "place").mkdir()
    with pytest.raises(ArtifactError, match=r"model_sparse\.onnx, found none"):
        write_model_repository(folder, tmp_path / "place" / "out", RepositoryOptions(server="triton", sparse=True))
    assert list((tmp_path / "place").iterdir()) == []


def test_an_altered_deployment_is_not_handed_over(tiny_deployment, tmp_path):
    folder = tmp_path / "altered"
    shutil.copytree(tiny_deployment, folder)
    with (folder / "model_int8.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ArtifactError, match="not the one that the manifest describes"):
        write_model_repository(folder, tmp_path / "out", RepositoryOptions(server="triton"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RepositoryOptions(server="ovms", sparse=True), "--sparse"),
        (RepositoryOptions(server="triton", sparse=True, precision="fp32"), "--sparse"),
        (RepositoryOptions(server="triton", name="../up"), "--name"),
        (RepositoryOptions(server="triton", name='a"b'), "--name"),
        (RepositoryOptions(server="kserve", name="Upper_Case"), "Kubernetes"),
    ],
)
def test_what_a_server_does_not_take_is_refused(tiny_deployment, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        write_model_repository(tiny_deployment, tmp_path / "out", options)


def test_a_model_without_a_dynamic_batch_is_refused():
    tensors = [Tensor("input_ids", "tensor(int64)", (1, "sequence"))]
    with pytest.raises(ArtifactError, match="dynamic batch"):
        triton_config("m", tensors, tensors, TritonSettings(max_batch=8, max_delay_ms=0, threads=0))


def test_the_command_prints_what_it_wrote(tiny_deployment, tmp_path, capsys):
    arguments = ["repository", str(tiny_deployment), "--server", "ovms", "--output", str(tmp_path / "out")]
    assert run(arguments) == 0
    assert f"{tmp_path / 'out' / 'tiny' / '1' / 'model.xml'}" in capsys.readouterr().out
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["server"] == "ovms"


@pytest.mark.parametrize(
    ("quantization", "options", "warned"),
    [
        ({"mode": "static", "target_cpu": "vnni"}, ["--server", "ovms"], True),
        ({"mode": "static", "target_cpu": "vnni"}, ["--server", "triton", "--precision", "fp32"], False),
        ({"mode": "dynamic", "target_cpu": "vnni"}, ["--server", "ovms"], False),
        ({"mode": "static", "target_cpu": "any"}, ["--server", "ovms"], False),
    ],
)
def test_files_that_need_vnni_are_handed_over_with_a_warning(
    tiny_deployment, tmp_path, capsys, quantization, options, warned
):
    older = shutil.copytree(tiny_deployment, tmp_path / "deployment")
    seal_deployment(older, {**BENCH_RECIPE, "quantization": quantization})
    assert run(["repository", str(older), "--output", str(tmp_path / "repository"), *options]) == ExitCode.OK
    assert ("saturate on CPUs without VNNI" in capsys.readouterr().err) == warned


def test_handing_over_does_not_load_torch(tiny_deployment, tmp_path):
    code = (
        "import sys; from sparse_deploy.cli.main import run; code = run(sys.argv[1:]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'transformers', 'onnx')))"
    )
    command = ["repository", tiny_deployment, "--server", "triton", "--output", tmp_path / "out"]
    assert subprocess.run([sys.executable, "-c", code, *command], check=False).returncode == 0
