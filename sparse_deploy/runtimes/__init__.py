# SPDX-License-Identifier: Apache-2.0
"""The runtimes for deployments, one file each."""

from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.runtimes.onnxruntime import OnnxRuntime
from sparse_deploy.runtimes.openvino import OpenVinoRuntime
from sparse_deploy.runtimes.openvino_sparse import OpenVinoSparseRuntime
from sparse_deploy.runtimes.protocol import Runtime, Session
from sparse_deploy.runtimes.pytorch import PyTorchRuntime
from sparse_deploy.runtimes.sparse import SparseRuntime, sparse_session

__all__ = ["RUNTIME_NAMES", "Runtime", "Session", "get_runtime", "sparse_session"]

_RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (PyTorchRuntime(), OnnxRuntime(), OpenVinoRuntime(), SparseRuntime(), OpenVinoSparseRuntime())
}
RUNTIME_NAMES = tuple(_RUNTIMES)


def get_runtime(name: str) -> Runtime:
    """A runtime by name.

    Raises:
        RuntimeUnavailableError: unknown name.
    """
    if name not in _RUNTIMES:
        raise RuntimeUnavailableError(f"expected a runtime of {', '.join(_RUNTIMES)}; found {name!r}")
    return _RUNTIMES[name]
