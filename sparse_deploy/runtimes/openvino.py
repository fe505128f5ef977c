# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's CPU plugin on the IR files of a deployment."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sparse_deploy.errors import ArtifactError, RuntimeUnavailableError
from sparse_deploy.runtimes.protocol import (
    Array,
    Hint,
    InputContract,
    Session,
    as_float32,
    one_line,
    order_outputs,
    require_file,
)


class OpenVinoSession:
    """One compiled model with one inference request."""

    def __init__(self, path: Path, threads: int, hint: Hint) -> None:
        import openvino
        from openvino import properties

        mode = properties.hint.PerformanceMode
        settings = {
            properties.hint.performance_mode: mode.LATENCY if hint == "latency" else mode.THROUGHPUT,
            properties.inference_num_threads: threads,
            # Without this the plugin computes in BF16 on CPUs with AVX512_BF16 or AMX, and a cell named fp32 would
            # not be one. In an INT8 cell it holds for what is left in floating point between the INT8 operators.
            properties.hint.inference_precision: openvino.Type.f32,
        }
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
        except (RuntimeError, OSError, ValueError) as error:
            raise ArtifactError(f"{path}: OpenVINO can't open the file: {one_line(error)}; export again") from error
        self._path = path
        self._inputs = InputContract.of((port.get_any_name() for port in compiled.inputs), path)
        ports = {name: port for port in compiled.outputs for name in port.get_names()}
        self._outputs = [ports[name] for name in order_outputs(list(ports), path)]
        self._request: Any = compiled.create_infer_request()

    def run(self, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        """See :meth:`Session.run`."""
        self._inputs.check(inputs)
        try:
            results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ArtifactError(f"{self._path}: OpenVINO failed on a batch: {one_line(error)}") from error
        return tuple(as_float32(results[port]) for port in self._outputs)

    def close(self) -> None:
        """See :meth:`Session.close`."""
        self._request = None


class OpenVinoRuntime:
    """See :class:`sparse_deploy.runtimes.protocol.Runtime`."""

    name: ClassVar[str] = "openvino"
    files: ClassVar[Mapping[str, str]] = {"fp32": "openvino_model.xml", "int8": "openvino_model_int8.xml"}
    notes: ClassVar[Mapping[str, str]] = {
        "int8": "operators that are not INT8 run in FP32 (inference precision hint f32), never in BF16"
    }

    def available(self) -> bool:
        """See :meth:`Runtime.available`."""
        return importlib.util.find_spec("openvino") is not None

    def version(self) -> str:
        """See :meth:`Runtime.version`."""
        try:
            import openvino
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"openvino can't be imported ({error}); install it with: pip install openvino"
            ) from error
        return str(openvino.__version__)

    def open(self, folder: Path, precision: str, threads: int, hint: Hint = "latency") -> Session:
        """See :meth:`Runtime.open`."""
        path = require_file(self.name, folder, self.files, precision)
        self.version()
        return OpenVinoSession(path, threads, hint)
