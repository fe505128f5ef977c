# SPDX-License-Identifier: Apache-2.0
"""The check of every model file before a native library opens it."""

from pathlib import Path

from sparse_deploy.errors import ArtifactError, CheckpointError
from sparse_deploy.untrusted.onnx_file import check_onnx
from sparse_deploy.untrusted.openvino_ir import check_openvino_ir
from sparse_deploy.untrusted.safetensors_file import read_header


def check_model_file(path: Path) -> None:
    """Refuse a model file that is damaged or has parts that no supported model needs.

    It runs no code of the file and allocates no memory by its numbers. docs/security.md has its times.

    Args:
        path: ``.onnx``, ``.xml`` (with its ``.bin`` in the same folder) or ``.safetensors``.

    Raises:
        ArtifactError: the file is refused.
    """
    if path.suffix not in _CHECKS:
        raise ArtifactError(f"{path}: expected a file in {', '.join(_CHECKS)}; found suffix {path.suffix!r}")
    _CHECKS[path.suffix](path)


def _check_safetensors(path: Path) -> None:
    try:
        read_header(path)
    except CheckpointError as error:  # in a deployment, the artifact is damaged
        raise ArtifactError(str(error)) from error


_CHECKS = {".onnx": check_onnx, ".xml": check_openvino_ir, ".safetensors": _check_safetensors}
