# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's CPU plugin on the IR files of a deployment."""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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

if TYPE_CHECKING:
    from sparse_deploy.runtimes.sparse_decompression import Decision

# The extension of the sparse operators begins its errors so; OpenVINO wraps them in lines of its own.
_OUR_ERROR = re.compile(r"sparse_deploy: ([^\n]+)")


class OpenVinoSession:
    """One compiled model with one inference request.

    Args:
        path: the IR.
        threads: threads that one request may use.
        hint: what to tune for.
        extension: library of the operators that the model needs.
        native_sparse: switch OpenVINO's own sparse path on where it can run, and tell in :attr:`remark` whether it did.
    """

    def __init__(
        self, path: Path, threads: int, hint: Hint, extension: Path | None = None, *, native_sparse: bool = False
    ) -> None:
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
            if extension is not None:
                core.add_extension(str(extension))
            model = core.read_model(path)
            decision = _decide(model) if native_sparse else None
            if decision is not None and decision.rate is not None:
                settings["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = decision.rate
            compiled = core.compile_model(model, "CPU", settings)
        except (RuntimeError, OSError, ValueError) as error:
            raise ArtifactError(f"{path}: OpenVINO can't open the file: {_reason(error)}; export again") from error
        self._path, self._compiled, self._decision = path, compiled, decision
        self._inputs = InputContract.of((port.get_any_name() for port in compiled.inputs), path)
        ports = {name: port for port in compiled.outputs for name in port.get_names()}
        self._outputs = [ports[name] for name in order_outputs(list(ports), path)]
        self._request: Any = compiled.create_infer_request()

    @property
    def remark(self) -> str:
        """For how many layers OpenVINO's own sparse path runs, as its execution graph says; empty if nobody asked."""
        if self._decision is None:
            return ""
        from sparse_deploy.runtimes.sparse_decompression import count_sparse_layers

        found = count_sparse_layers(self._compiled)
        why = f"rate {self._decision.rate:g}" if self._decision.rate is not None else self._decision.reason
        return f"its sparse-weights decompression runs in {found.sparse} of {found.all} layers ({why})"

    def run(self, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        """See :meth:`Session.run`."""
        self._inputs.check(inputs)
        try:
            results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ArtifactError(f"{self._path}: OpenVINO failed on a batch: {_reason(error)}") from error
        return tuple(as_float32(results[port]) for port in self._outputs)

    def close(self) -> None:
        """See :meth:`Session.close`."""
        self._request = self._compiled = None


def _decide(model: Any) -> "Decision":
    """The decision on OpenVINO's own sparse path; weights are looked at only where the CPU has it."""
    from sparse_deploy.machine import describe_machine
    from sparse_deploy.runtimes.sparse_decompression import TensorFacts, cpu_condition, decide

    flags = describe_machine().flags
    if not cpu_condition(flags).holds:
        return decide(flags, ())
    from sparse_deploy.graph.openvino_ir import weights_of

    return decide(
        flags,
        [
            TensorFacts(
                name=weight.name,
                shape=weight.zeros.shape,
                zero_share=float(weight.zeros.mean()),
                weight_type=weight.stored_type,
                activation_type=weight.activation_type,
            )
            for weight in weights_of(model)
        ],
    )


def _reason(error: BaseException) -> str:
    ours = _OUR_ERROR.search(str(error))
    return ours[1].strip() if ours else one_line(error)


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

            import sparse_deploy.machine
            import sparse_deploy.runtimes.sparse_decompression  # noqa: F401  opening needs both
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"openvino can't be imported ({error}); install it with: pip install openvino"
            ) from error
        return str(openvino.__version__)

    def open(self, folder: Path, precision: str, threads: int, hint: Hint = "latency") -> Session:
        """See :meth:`Runtime.open`."""
        path = require_file(self.name, folder, self.files, precision)
        self.version()
        return OpenVinoSession(path, threads, hint, native_sparse=precision == "int8")
