# SPDX-License-Identifier: Apache-2.0
"""The configuration files of other model servers, as text: Triton, OpenVINO Model Server, KServe.

Sources of the formats: ``model_config.proto`` of triton-inference-server/common with the README of its
onnxruntime_backend; ``docs/parameters.md`` of openvinotoolkit/model_server; the v1beta1 API of kserve/kserve.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from sparse_deploy.errors import ArtifactError, ConfigError

_SPDX = "# SPDX-License-Identifier: Apache-2.0\n"
# Element types of supported models: ONNX Runtime's names and Triton's.
_TRITON_TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(int32)": "TYPE_INT32", "tensor(float)": "TYPE_FP32"}
# Valid as a folder name for Triton and OVMS, and as a part of a URL; Kubernetes names are stricter (RFC 1123 label).
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# Memory of the server process and of its candidates at the start, without copies of the weights; docs/containers.md.
_BASE_MEMORY, _COPIES = 512 * 2**20, 4
_USER = 10001


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model file.

    Attributes:
        shape: a number for a static axis, a name for a dynamic axis.
    """

    name: str
    element_type: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class TritonSettings:
    """Settings of ``config.pbtxt`` except the tensors.

    Attributes:
        max_batch: largest number of sequences in a batch.
        max_delay_ms: batching delay.
        threads: threads of one batch; 0: ONNX Runtime's default (all cores of the machine, without the quota).
        operator_library: path of the sparse operators for the server; None if the model needs none.
    """

    max_batch: int
    max_delay_ms: float
    threads: int
    operator_library: PurePosixPath | None = None


def check_model_name(name: str, *, kubernetes: bool = False) -> str:
    """Check a name against the servers' rules.

    Raises:
        ConfigError: the name is not allowed.
    """
    if kubernetes and not _LABEL.fullmatch(name):
        raise ConfigError(f"--name {name!r}: Kubernetes allows lower-case letters, digits and inner '-', at most 63")
    if not _MODEL_NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: expected letters, digits, '.', '_' and '-', at most 100, no dot first")
    return name


def triton_config(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], settings: TritonSettings) -> str:
    """``config.pbtxt`` for Triton's ONNX Runtime backend on a CPU, with dynamic batching.

    No preferred batch sizes: Triton joins only requests of one shape, and waiting for a size would increase latency.

    Raises:
        ArtifactError: the model's first axis is not a dynamic batch, or Triton does not support a tensor's type.
    """
    blocks = [
        _SPDX + f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {settings.max_batch}\n',
        _tensors("input", inputs),
        _tensors("output", outputs),
        f"dynamic_batching {{\n  max_queue_delay_microseconds: {round(settings.max_delay_ms * 1000)}\n}}\n",
        "instance_group [\n  {\n    kind: KIND_CPU\n    count: 1\n  }\n]\n",
        _parameter("intra_op_thread_count", settings.threads),
        _parameter("inter_op_thread_count", 1),
    ]
    if settings.operator_library is not None:
        blocks.append(f'model_operations {{\n  op_library_filename: "{settings.operator_library}"\n}}\n')
    return "".join(blocks)


def ovms_config(name: str, threads: int) -> str:
    """``config.json`` of OpenVINO Model Server; the model's folder is named relative to the file."""
    # As in this package's runtime: without the hint the plugin computes in BF16 if the CPU supports it.
    plugin: dict[str, str] = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        plugin["INFERENCE_NUM_THREADS"] = str(threads)
    model = {"name": name, "base_path": name, "target_device": "CPU", "plugin_config": plugin}
    return json.dumps({"model_config_list": [{"config": model}]}, indent=1) + "\n"


def kserve_service(name: str, storage_uri: str, image: str, *, cpus: int, model_bytes: int) -> str:
    """An ``InferenceService`` with the image `serve` as predictor, for the deployment folder at ``storage_uri``.

    For a custom predictor KServe reads protocol and storage from variables; it mounts the folder at ``/mnt/models``.
    """
    memory = f"{math.ceil((_BASE_MEMORY + _COPIES * model_bytes) / 2**30)}Gi"
    container = {
        "name": "kserve-container",
        "image": image,
        "env": _variables(
            STORAGE_URI=storage_uri,
            PROTOCOL="v2",
            SPARSE_DEPLOY_DEPLOYMENT="/mnt/models",
            SPARSE_DEPLOY_NAME=name,
            SPARSE_DEPLOY_PORT="8080",
        ),
        "ports": [{"name": "http1", "containerPort": 8080, "protocol": "TCP"}],
        "readinessProbe": _probe("ready", periodSeconds=5, failureThreshold=3),
        # The runtime is loaded and chosen before the port is opened.
        "livenessProbe": _probe("live", initialDelaySeconds=60, periodSeconds=10, failureThreshold=3),
        "resources": {
            "requests": {"cpu": str(cpus), "memory": memory},
            "limits": {"cpu": str(cpus), "memory": memory},
        },
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  a mount in a container
    }
    volume = {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}
    return _service(name, {"minReplicas": 1, "containers": [container], "volumes": [volume]})


def kserve_triton_service(name: str, storage_uri: str, *, cpus: int, model_bytes: int) -> str:
    """An ``InferenceService`` on KServe's Triton runtime; ``storage_uri`` is the Triton repository."""
    memory = f"{math.ceil((_BASE_MEMORY + _COPIES * model_bytes) / 2**30)}Gi"
    model = {
        "modelFormat": {"name": "triton", "version": "2"},
        "runtime": "kserve-tritonserver",
        "protocolVersion": "v2",
        "storageUri": storage_uri,
        "resources": {
            "requests": {"cpu": str(cpus), "memory": memory},
            "limits": {"cpu": str(cpus), "memory": memory},
        },
    }
    return _service(f"{name}-triton", {"minReplicas": 1, "model": model})


def _tensors(field: str, tensors: Sequence[Tensor]) -> str:
    return f"{field} [\n" + ",\n".join(_tensor(tensor) for tensor in tensors) + "\n]\n"


def _tensor(tensor: Tensor) -> str:
    if not tensor.shape or isinstance(tensor.shape[0], int):
        raise ArtifactError(f"{tensor.name}: expected a dynamic batch as first axis, found {list(tensor.shape)}")
    if tensor.element_type not in _TRITON_TYPES:
        raise ArtifactError(f"{tensor.name}: expected {' or '.join(_TRITON_TYPES)}, found {tensor.element_type}")
    axes = ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in tensor.shape[1:])
    kind = _TRITON_TYPES[tensor.element_type]
    return f'  {{\n    name: "{tensor.name}"\n    data_type: {kind}\n    dims: [ {axes} ]\n  }}'


def _parameter(key: str, value: int) -> str:
    return f'parameters {{\n  key: "{key}"\n  value: {{ string_value: "{value}" }}\n}}\n'


def _service(name: str, predictor: Mapping[str, Any]) -> str:
    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": dict(predictor)},
    }
    return _SPDX + yaml.safe_dump(document, sort_keys=False)


def _variables(**values: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _probe(state: str, **times: int) -> dict[str, Any]:
    return {"httpGet": {"path": f"/v2/health/{state}", "port": 8080}, "timeoutSeconds": 3, **times}
