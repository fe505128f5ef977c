# SPDX-License-Identifier: Apache-2.0
"""Makes the model repository of another server from a deployment: Triton, OpenVINO Model Server, KServe.

The folder is an artifact: staged, then renamed. Its ``manifest.json`` lists the files with their hashes and the source
deployment; the servers read only the folder of the model.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict

from sparse_deploy import __version__
from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.artifacts import Manifest, load_manifest, staged_folder, write_text_atomically
from sparse_deploy.config.schema import Int8Mode
from sparse_deploy.errors import ArtifactError, ConfigError, one_line
from sparse_deploy.file_records import FileRecord, file_sha256, record_files
from sparse_deploy.stages.server_configs import (
    Tensor,
    TritonSettings,
    check_model_name,
    kserve_service,
    kserve_triton_service,
    ovms_config,
    triton_config,
)
from sparse_deploy.untrusted.model_file import check_model_file

if TYPE_CHECKING:
    from onnxruntime import NodeArg

Server = Literal["triton", "ovms", "kserve"]
ModelPrecision = Literal["int8", "fp32"]
_VERSION: Final = "1"
_ONNX_FILES = {"int8": "model_int8.onnx", "fp32": "model.onnx"}
_SPARSE_FILE = "model_sparse.onnx"
_IR_FILES = {"int8": "openvino_model_int8.xml", "fp32": "openvino_model.xml"}


class RepositoryManifest(BaseModel):
    """The content of ``manifest.json`` of a model repository.

    Attributes:
        deployment_manifest_sha256: SHA-256 of the deployment's ``manifest.json``, which has the hashes of its files.
        needs_vnni: whether results would be wrong on CPUs without VNNI (``docs/int8.md``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    kind: Literal["model-repository"] = "model-repository"
    server: Server
    name: str
    task: str
    deployment_manifest_sha256: str
    files: tuple[FileRecord, ...]
    sparse_deploy: str
    created: str
    needs_vnni: bool = False


@dataclass(frozen=True)
class RepositoryOptions:
    """The files to write, and the settings of the server.

    Attributes:
        server: the server that reads the folder.
        name: name of the model; None means the recipe's name.
        precision: None means INT8 if the deployment has it.
        sparse: use ``model_sparse.onnx`` and copy its operator library (Triton).
        mount: path of the folder for the server; Triton needs the full path of the operator library.
        max_batch: largest number of sequences in a batch of Triton.
        max_delay_ms: batching delay of Triton.
        threads: threads of one batch; 0: the default of the runtime.
        storage_uri: location of the deployment for KServe; None means ``pvc://models/NAME``.
        image: the image `serve` of this project, for KServe.
        cpus: requested CPUs in KServe.
    """

    server: Server
    name: str | None = None
    precision: ModelPrecision | None = None
    sparse: bool = False
    mount: str = "/models"
    max_batch: int = 32
    max_delay_ms: float = 0.0
    threads: int = 0
    storage_uri: str | None = None
    image: str = "sparse-deploy:serve"
    cpus: int = 2


def write_model_repository(deployment: Path, output: Path, options: RepositoryOptions) -> RepositoryManifest:
    """Write a model repository from the files of a deployment.

    Args:
        deployment: a deployment folder; every file is verified.
        output: new folder; an earlier repository there is replaced.
        options: files and settings.

    Raises:
        ConfigError: a wrong name, or an option that the server doesn't have.
        ArtifactError: the deployment is damaged or has no such file, or the folder can't be written.
    """
    manifest = load_manifest(deployment, "deployment")
    if options.sparse and options.server != "triton":
        raise ConfigError(f"--sparse: {options.server} can't load the sparse operators; triton and serve can")
    if options.sparse and options.precision == "fp32":
        raise ConfigError(f"--sparse: {_SPARSE_FILE} is INT8; omit --precision fp32")
    kubernetes = options.server == "kserve"
    name = check_model_name(options.name or _default_name(manifest, kubernetes=kubernetes), kubernetes=kubernetes)
    with staged_folder(output, "model-repository", [deployment]) as staging:
        _WRITERS[options.server](deployment, staging, name, options)
        return _seal(deployment, staging, manifest, name, options)


def _write_triton(deployment: Path, staging: Path, name: str, options: RepositoryOptions) -> None:
    version = staging / name / _VERSION
    version.mkdir(parents=True)
    source = _model_file(deployment, {"int8": _SPARSE_FILE} if options.sparse else _ONNX_FILES, options.precision)
    library = None
    if options.sparse:
        from sparse_deploy.kernels.loader import onnxruntime_library

        library = onnxruntime_library()
    inputs, outputs = _declared_tensors(source, library)
    shutil.copyfile(source, version / "model.onnx")
    if library is not None:
        shutil.copyfile(library, version / library.name)
    settings = TritonSettings(
        max_batch=options.max_batch,
        max_delay_ms=options.max_delay_ms,
        threads=options.threads,
        operator_library=PurePosixPath(options.mount, name, _VERSION, library.name) if library else None,
    )
    text = triton_config(name, inputs, outputs, settings)
    (staging / name / "config.pbtxt").write_text(text, encoding="utf-8")


def _write_ovms(deployment: Path, staging: Path, name: str, options: RepositoryOptions) -> None:
    version = staging / name / _VERSION
    version.mkdir(parents=True)
    source = _model_file(deployment, _IR_FILES, options.precision)
    shutil.copyfile(source, version / "model.xml")
    shutil.copyfile(source.with_suffix(".bin"), version / "model.bin")
    (staging / "config.json").write_text(ovms_config(name, options.threads), encoding="utf-8")


def _write_kserve(deployment: Path, staging: Path, name: str, options: RepositoryOptions) -> None:
    size = _model_file(deployment, _ONNX_FILES, options.precision).stat().st_size
    uri = options.storage_uri or f"pvc://models/{name}"
    ours = kserve_service(name, uri, options.image, cpus=options.cpus, model_bytes=size)
    triton = kserve_triton_service(name, f"{uri}-triton", cpus=options.cpus, model_bytes=size)
    (staging / "inferenceservice.yaml").write_text(ours, encoding="utf-8")
    (staging / "inferenceservice-triton.yaml").write_text(triton, encoding="utf-8")


_WRITERS: Final[dict[Server, Callable[[Path, Path, str, RepositoryOptions], None]]] = {
    "triton": _write_triton,
    "ovms": _write_ovms,
    "kserve": _write_kserve,
}


def _model_file(deployment: Path, files: dict[str, str], precision: ModelPrecision | None) -> Path:
    wanted = [precision] if precision else list(files)
    for candidate in wanted:
        if (path := deployment / files[candidate]).is_file():
            return path
    names = " or ".join(files[candidate] for candidate in wanted)
    raise ArtifactError(f"{deployment}: expected {names}, found none; export again with it switched on")


def _declared_tensors(path: Path, library: Path | None) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of the file, as read by ONNX Runtime."""
    check_model_file(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library is not None:
        options.register_custom_ops_library(str(library))
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes derive only from Exception
        reason = one_line(error)
        raise ArtifactError(f"{path}: ONNX Runtime can't open the file: {reason}; export again") from error
    return [_tensor(node) for node in session.get_inputs()], [_tensor(node) for node in session.get_outputs()]


def _tensor(node: "NodeArg") -> Tensor:
    return Tensor(node.name, node.type, tuple(node.shape))


def _default_name(manifest: Manifest, *, kubernetes: bool) -> str:
    name = str(manifest.recipe.get("name") or "model")
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-") if kubernetes else name


def _needs_vnni(source: Manifest, options: RepositoryOptions) -> bool:
    """Whether the server's results would be wrong without VNNI, unlike those of ``serve`` and the sparse operators."""
    if options.server == "kserve" or options.sparse or options.precision == "fp32":
        return False
    quantization = source.recipe.get("quantization", {})
    if options.server == "ovms" and quantization.get("mode") == Int8Mode.DYNAMIC:  # OpenVINO runs its products in FP32
        return False
    # Deployments from before details.int8_weights were made for the CPU in their recipe, by default VNNI.
    older = {"saturates_without_vnni": quantization.get("target_cpu") == "vnni"}
    return bool(source.details.get("int8_weights", older)["saturates_without_vnni"])


def _seal(
    deployment: Path, staging: Path, source: Manifest, name: str, options: RepositoryOptions
) -> RepositoryManifest:
    manifest = RepositoryManifest(
        server=options.server,
        needs_vnni=_needs_vnni(source, options),
        name=name,
        task=source.task,
        deployment_manifest_sha256=file_sha256(deployment / MANIFEST_NAME),
        files=record_files(staging),
        sparse_deploy=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_text_atomically(staging / MANIFEST_NAME, manifest.model_dump_json(indent=1) + "\n")
    return manifest
