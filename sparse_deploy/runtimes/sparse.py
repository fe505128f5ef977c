# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime with the sparse operators on ``model_sparse.onnx``."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sparse_deploy.errors import ArtifactError, ConfigError, RuntimeUnavailableError, one_line
from sparse_deploy.kernels import loader
from sparse_deploy.runtimes.onnxruntime import OnnxRuntime, OnnxRuntimeSession, add_operators
from sparse_deploy.runtimes.protocol import Hint, Session, require_file
from sparse_deploy.untrusted.onnx_file import check_onnx

if TYPE_CHECKING:
    import onnxruntime

SPARSE_FILE = "model_sparse.onnx"


def sparse_session(
    path: str | Path, options: "onnxruntime.SessionOptions | None" = None
) -> "onnxruntime.InferenceSession":
    """Open ``model_sparse.onnx`` in a stock ONNX Runtime.

    Args:
        path: the model.
        options: options such as threads; the operator library is added to them.

    Returns:
        A usual session: ``session.run(None, {"input_ids": ..., "attention_mask": ..., "token_type_ids": ...})``
        with int64 arrays ``[batch, sequence]``.

    Raises:
        RuntimeUnavailableError: ONNX Runtime or the compiled operators are not installed.
        ConfigError: no such file.
        ArtifactError: refused by :func:`sparse_deploy.untrusted.onnx_file.check_onnx` or by ONNX Runtime.
    """
    OnnxRuntime().version()
    import onnxruntime

    library = loader.onnxruntime_library()
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file; expected {SPARSE_FILE} of a deployment")
    check_onnx(Path(path))
    options = options or onnxruntime.SessionOptions()
    add_operators(options, library)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes derive from Exception alone
        raise ArtifactError(f"{path}: ONNX Runtime can't open the file: {one_line(error)}; export again") from error


class SparseRuntime:
    """See :class:`sparse_deploy.runtimes.protocol.Runtime`."""

    name: ClassVar[str] = "sparse"
    files: ClassVar[Mapping[str, str]] = {"int8": SPARSE_FILE}
    notes: ClassVar[Mapping[str, str]] = {"int8": "ONNX Runtime with the sparse operators of sparse-deploy"}
    hints: ClassVar[tuple[Hint, ...]] = ("latency",)

    def available(self) -> bool:
        """See :meth:`Runtime.available`; false without the compiled operators, too."""
        if importlib.util.find_spec("onnxruntime") is None:
            return False
        try:
            loader.onnxruntime_library()
        except RuntimeUnavailableError:
            return False
        return True

    def version(self) -> str:
        """ONNX Runtime's version and the instruction set of the operators; see :meth:`Runtime.version`."""
        return f"{OnnxRuntime().version()} {loader.instruction_set(loader.ONNXRUNTIME).name}"

    def open(self, folder: Path, precision: str, threads: int, hint: Hint = "latency") -> Session:
        """See :meth:`Runtime.open`."""
        path = require_file(self.name, folder, self.files, precision)
        OnnxRuntime().version()
        return OnnxRuntimeSession(path, threads, loader.onnxruntime_library())
