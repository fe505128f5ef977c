# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's CPU plugin on the IR files of a deployment."""

import contextlib
import importlib.util
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
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
    from sparse_deploy.graph.openvino_ir import IrWeight
    from sparse_deploy.runtimes.sparse_decompression import Decision

# Prefix of the errors of the sparse operators' extension; OpenVINO adds lines before and after.
_OUR_ERROR = re.compile(r"sparse_deploy: ([^\n]+)")
# Errors of OpenVINO for a batch.
_BATCH_ERRORS = (RuntimeError, ValueError, TypeError)


class OpenVinoSession:
    """One compiled model with one inference request, which gets all threads.

    Args:
        path: the IR.
        threads: threads of the model.
        extension: library of the operators for the model.
        int8: refuse a file whose products saturate on this CPU; enable OpenVINO's own sparse path if it can run, and
            report its use in :attr:`remark`.
    """

    _hint: ClassVar[Hint] = "latency"

    def __init__(self, path: Path, threads: int, extension: Path | None = None, *, int8: bool = False) -> None:
        import openvino
        from openvino import properties

        settings = {
            properties.hint.performance_mode: self._hint.upper(),
            properties.inference_num_threads: threads,
            # Otherwise the plugin computes in BF16 on CPUs with AVX512_BF16 or AMX, and a cell named fp32 would
            # not be FP32. In an INT8 cell it applies to the floating-point operators between the INT8 ones.
            properties.hint.inference_precision: openvino.Type.f32,
        }
        try:
            core = openvino.Core()
            # With a mapped file, a write to it would change the weights or end the process.
            core.set_property({"ENABLE_MMAP": False})
            if extension is not None:
                core.add_extension(str(extension))
            model = core.read_model(path)
            if int8:
                _refuse_saturating(model)
            decision = _decide(model) if int8 else None
            if decision is not None and decision.rate is not None:
                settings["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = decision.rate
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeUnavailableError as error:
            raise RuntimeUnavailableError(f"{path}: {error}") from error
        except (RuntimeError, OSError, ValueError) as error:
            raise ArtifactError(f"{path}: OpenVINO can't open the file: {_reason(error)}; export again") from error
        self._path, self._decision = path, decision
        self._compiled: Any = compiled
        self._inputs = InputContract.of((port.get_any_name() for port in compiled.inputs), path)
        ports = {name: port for port in compiled.outputs for name in port.get_names()}
        self._outputs = [ports[name] for name in order_outputs(list(ports), path)]
        self._request: Any = compiled.create_infer_request()
        self._threads = threads

    @property
    def remark(self) -> str:
        """Number of layers on OpenVINO's own sparse path, from its execution graph; empty if it is off."""
        if self._decision is None:
            return ""
        from sparse_deploy.runtimes.sparse_decompression import count_sparse_layers

        found = count_sparse_layers(self._compiled)
        why = f"rate {self._decision.rate:g}" if self._decision.rate is not None else self._decision.reason
        return f"its sparse-weights decompression runs in {found.sparse} of {found.all} layers ({why})"

    def run(self, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        """See :meth:`Session.run`."""
        taken = self._inputs.select(inputs)
        try:
            results = self._infer(taken)
        except _BATCH_ERRORS as error:
            raise self._failure(error) from error
        return tuple(as_float32(results[port]) for port in self._outputs)

    def close(self) -> None:
        """See :meth:`Session.close`."""
        self._request = self._compiled = None

    def _infer(self, inputs: dict[str, Array]) -> Any:
        if self._threads > 1:
            return self._request.infer(inputs, share_inputs=True, share_outputs=True)
        # With one thread, infer() of OpenVINO 2026.4 drops an exception of a node and returns an earlier result.
        self._request.start_async(inputs, share_inputs=True)
        self._request.wait()
        return self._request.results

    def _failure(self, error: BaseException) -> ArtifactError:
        return ArtifactError(f"{self._path}: OpenVINO failed on a batch: {_reason(error)}")


class OpenVinoStreams(OpenVinoSession):
    """One compiled model whose threads are split into streams; arguments as for :class:`OpenVinoSession`.

    See :class:`sparse_deploy.runtimes.protocol.StreamingSession`. OpenVINO's own ``AsyncInferQueue`` is not used: it
    reports a failed batch only after the last one, and refuses every later batch.
    """

    _hint: ClassVar[Hint] = "throughput"

    def __init__(self, path: Path, threads: int, extension: Path | None = None, *, int8: bool = False) -> None:
        super().__init__(path, threads, extension, int8=int8)
        # Twice OpenVINO's optimal number, which is one per stream. Results are read in order, so a stream that
        # finishes before the oldest batch needs another one in the queue.
        count = 2 * self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests: list[Any] = [self._compiled.create_infer_request() for _ in range(count)]

    @property
    def streams(self) -> int:
        """See :attr:`StreamingSession.streams`."""
        return int(self._compiled.get_property("NUM_STREAMS"))

    def run_all(self, batches: Iterable[Mapping[str, Array]]) -> Iterator[tuple[Array, ...]]:
        """See :meth:`StreamingSession.run_all`."""
        idle, running = deque(self._requests), deque[Any]()
        refused: ArtifactError | None = None
        try:
            for batch in batches:
                answer = None if idle else self._answer(running, idle)
                request = idle.popleft()
                try:
                    self._start(request, batch)
                    running.append(request)
                except ArtifactError as error:
                    refused = error
                if answer is not None:  # yield after the next start, so that no stream waits for the caller
                    yield answer
                if refused:
                    break
            while running:
                yield self._answer(running, idle)
            if refused:
                raise refused
        finally:
            _settle(running)

    def close(self) -> None:
        """See :meth:`Session.close`."""
        super().close()
        self._requests = []

    def _start(self, request: Any, batch: Mapping[str, Array]) -> None:
        taken = self._inputs.select(batch)
        try:
            request.start_async(taken, share_inputs=True)  # the request refers to the inputs until its next start
        except _BATCH_ERRORS as error:
            raise self._failure(error) from error

    def _answer(self, running: deque[Any], idle: deque[Any]) -> tuple[Array, ...]:
        """The result of the oldest running request, which becomes idle."""
        request = running.popleft()
        idle.append(request)
        try:
            request.wait()
            return tuple(as_float32(request.get_tensor(port).data) for port in self._outputs)
        except _BATCH_ERRORS as error:
            raise self._failure(error) from error


def open_ir(path: Path, threads: int, hint: Hint, extension: Path | None = None, *, int8: bool = False) -> Session:
    """Open an IR for single or parallel requests; see :class:`OpenVinoSession`.

    Raises:
        ArtifactError: OpenVINO can't open the file.
    """
    session = OpenVinoStreams if hint == "throughput" else OpenVinoSession
    return session(path, threads, extension, int8=int8)


def _settle(running: Iterable[Any]) -> None:
    """Wait for requests whose results are no longer needed."""
    for request in running:
        with contextlib.suppress(*_BATCH_ERRORS):
            request.wait()


def _refuse_saturating(model: Any) -> None:
    from sparse_deploy.runtimes.saturation import refuse_saturating_ir

    def read() -> "list[IrWeight]":
        from sparse_deploy.graph.openvino_ir import weights_of

        return weights_of(model)

    refuse_saturating_ir(read)


def _decide(model: Any) -> "Decision":
    """The decision on OpenVINO's own sparse path; weights are read only if the CPU supports it."""
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
    hints: ClassVar[tuple[Hint, ...]] = ("latency", "throughput")

    def available(self) -> bool:
        """See :meth:`Runtime.available`."""
        return importlib.util.find_spec("openvino") is not None

    def version(self) -> str:
        """See :meth:`Runtime.version`."""
        try:
            import openvino

            import sparse_deploy.machine
            import sparse_deploy.runtimes.saturation
            import sparse_deploy.runtimes.sparse_decompression  # noqa: F401  needed by open()
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"openvino can't be imported ({error}); install it with: pip install openvino"
            ) from error
        return str(openvino.__version__)

    def open(self, folder: Path, precision: str, threads: int, hint: Hint = "latency") -> Session:
        """See :meth:`Runtime.open`."""
        path = require_file(self.name, folder, self.files, precision)
        self.version()
        return open_ir(path, threads, hint, int8=precision == "int8")
