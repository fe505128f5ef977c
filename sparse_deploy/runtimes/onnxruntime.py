# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's CPU execution provider on the ONNX files of a deployment."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sparse_deploy.errors import ArtifactError, RuntimeUnavailableError, one_line
from sparse_deploy.runtimes.protocol import (
    Array,
    Hint,
    InputContract,
    Session,
    as_float32,
    order_outputs,
    require_file,
)

if TYPE_CHECKING:
    import onnxruntime


def add_operators(options: "onnxruntime.SessionOptions", library: Path) -> None:
    """Register the operator library, and pass it the number of threads of the session.

    ONNX Runtime does not pass it to operators, and distributing the work over too many threads is slower.
    """
    if options.intra_op_num_threads > 0:
        options.add_session_config_entry("sparse_deploy.threads", str(options.intra_op_num_threads))
    options.register_custom_ops_library(str(library))


class OnnxRuntimeSession:
    """One ``InferenceSession``.

    Args:
        path: the model.
        threads: threads that one request may use.
        operators: library of custom operators for the model.
        int8: compute INT8 products exactly, also on a CPU that would saturate.

    Attributes:
        warning: a problem of the session, usually empty; ``bench`` and ``serve`` show it.
    """

    def __init__(self, path: Path, threads: int, operators: Path | None = None, *, int8: bool = False) -> None:
        import onnxruntime

        from sparse_deploy.runtimes.saturation import EXACT_MODE, exact_mode_warning, needs_exact_mode

        self.warning = ""

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if operators is not None:
            add_operators(options, operators)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning stays on, as by default: threads spin for a few milliseconds after a request before they sleep. The
        # benchmark waits between blocks until they sleep.
        try:
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            if int8 and needs_exact_mode(self._session):
                options.add_session_config_entry(*EXACT_MODE)
                self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                self.warning = exact_mode_warning()
        except Exception as error:  # its exception classes derive only from Exception
            raise ArtifactError(f"{path}: ONNX Runtime can't open the file: {one_line(error)}; export again") from error
        self._path = path
        self._inputs = InputContract.of((node.name for node in self._session.get_inputs()), path)
        self._outputs = order_outputs([node.name for node in self._session.get_outputs()], path)

    @property
    def remark(self) -> str:
        """The remark of the cell in ``bench``."""
        return self.warning

    def run(self, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        """See :meth:`Session.run`."""
        taken = self._inputs.select(inputs)
        try:
            outputs = self._session.run(self._outputs, taken)
        except Exception as error:
            raise ArtifactError(f"{self._path}: ONNX Runtime failed on a batch: {one_line(error)}") from error
        return tuple(as_float32(output) for output in outputs)

    def close(self) -> None:
        """See :meth:`Session.close`."""
        self._session = None


class OnnxRuntime:
    """See :class:`sparse_deploy.runtimes.protocol.Runtime`."""

    name: ClassVar[str] = "onnxruntime"
    files: ClassVar[Mapping[str, str]] = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
    notes: ClassVar[Mapping[str, str]] = {}
    hints: ClassVar[tuple[Hint, ...]] = ("latency",)

    def available(self) -> bool:
        """See :meth:`Runtime.available`."""
        return importlib.util.find_spec("onnxruntime") is not None

    def version(self) -> str:
        """See :meth:`Runtime.version`."""
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"onnxruntime can't be imported ({error}); install it with: pip install onnxruntime"
            ) from error
        return str(onnxruntime.__version__)

    def open(self, folder: Path, precision: str, threads: int, hint: Hint = "latency") -> Session:
        """See :meth:`Runtime.open`."""
        path = require_file(self.name, folder, self.files, precision)
        self.version()
        return OnnxRuntimeSession(path, threads, int8=precision == "int8")
