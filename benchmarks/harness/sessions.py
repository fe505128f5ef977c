# SPDX-License-Identifier: Apache-2.0
"""Sessions of the candidate and of every dense baseline, each with its best settings.

Where the best settings depend on the machine, a runtime has several variants; the worker opens and times all of them
for the cell and keeps the fastest. Runtimes are imported inside the functions: a process uses only one of them.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.cells import Cell
from harness.models import (
    DYNAMIC_FUSED,
    DYNAMIC_ONNX,
    FP32_IR,
    FP32_ONNX,
    QDQ_IR,
    QDQ_ONNX,
    SPARSE_IR,
    SPARSE_ONNX,
)
from sparse_deploy.architectures import architecture_of
from sparse_deploy.checkpoint import WEIGHTS_FILE
from sparse_deploy.errors import RuntimeUnavailableError

if TYPE_CHECKING:
    from sparse_deploy import runtimes

Array = np.ndarray
Inputs = Mapping[str, Array]
# The same operators inside ONNX Runtime and inside OpenVINO; names with this prefix are not baselines.
OURS, OURS_OPENVINO = "ours", "ours_openvino"
# The same model with all weights in the dense layout: the baseline of a forced instruction set, which other runtimes
# would not use.
OWN_DENSE = "own_dense"


class Session(Protocol):
    """An opened model.

    Attributes:
        any_shape: whether the session accepts batches of shapes other than that for which it was opened.
    """

    any_shape: bool

    def run(self, inputs: Inputs) -> list[Array]:
        """Compute one batch: float32 outputs in the model's order."""
        ...

    def time(self, inputs: Inputs) -> float:
        """Milliseconds per batch of one measurement."""
        ...


@dataclass(frozen=True)
class Variant:
    """A variant of a runtime: a short description of its settings, and the function that opens it."""

    name: str
    open: Callable[[Path, Cell, int], Session]


class _Timed:
    """Times single requests."""

    any_shape = True

    def run(self, inputs: Inputs) -> list[Array]:
        raise NotImplementedError

    def time(self, inputs: Inputs) -> float:
        start = time.perf_counter()
        self.run(inputs)
        return (time.perf_counter() - start) * 1e3


class PackageSession(_Timed):
    """The session that ``sparse-deploy bench`` and ``serve`` use."""

    def __init__(self, session: "runtimes.Session") -> None:
        self._session = session

    def run(self, inputs: Inputs) -> list[Array]:
        """See :class:`Session`."""
        return list(self._session.run(inputs))


class OpenVinoSession(_Timed):
    """One model compiled for one shape, with one request; the latency hint gives it all threads."""

    any_shape = False

    def __init__(
        self, path: Path, cell: Cell, threads: int, precision: str | None, hint: str = "LATENCY",
        extension: Path | None = None,
    ) -> None:  # fmt: skip
        self.compiled = _compile(path, (cell.batch, cell.sequence), threads, precision, hint, extension)
        self._request = self.compiled.create_infer_request()

    def run(self, inputs: Inputs) -> list[Array]:
        """See :class:`Session`."""
        own = {port.get_any_name(): inputs[port.get_any_name()] for port in self.compiled.inputs}
        results = self._request.infer(own, share_inputs=True, share_outputs=True)
        return [np.array(results[port], dtype=np.float32) for port in self.compiled.outputs]


class OpenVinoStreams:
    """A model compiled with the throughput hint, and one request per stream.

    Args:
        split: give each request its share of a batch; otherwise whole batches run at the same time, as with queued
            requests, and a measurement is the total time divided by their number.
    """

    any_shape = False

    def __init__(self, path: Path, cell: Cell, threads: int, precision: str | None, *, split: bool) -> None:
        pieces = threads if split else 1
        if cell.batch % pieces:
            raise RuntimeUnavailableError(f"a batch of {cell.batch} can't be split over {pieces} streams")
        rows = cell.batch // pieces
        self.compiled = _compile(path, (rows, cell.sequence), threads, precision, "THROUGHPUT")
        streams = int(self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [self.compiled.create_infer_request() for _ in range(pieces if split else streams)]
        self._rows, self._split = rows, split

    def run(self, inputs: Inputs) -> list[Array]:
        """See :class:`Session`."""
        for number, request in enumerate(self._requests):
            first = number * self._rows if self._split else 0
            names = (port.get_any_name() for port in self.compiled.inputs)
            part = {name: inputs[name][first : first + self._rows] for name in names}
            request.start_async(part, share_inputs=True)
        for request in self._requests:
            request.wait()
        used = self._requests if self._split else self._requests[:1]
        outputs = range(len(self.compiled.outputs))
        return [np.concatenate([request.get_output_tensor(i).data for request in used]) for i in outputs]

    def time(self, inputs: Inputs) -> float:
        """See :class:`Session`."""
        start = time.perf_counter()
        self.run(inputs)
        elapsed = (time.perf_counter() - start) * 1e3
        return elapsed if self._split else elapsed / len(self._requests)


class TorchBf16Session(_Timed):
    """Transformers' model with BF16 weights in eager mode, with scaled-dot-product attention where the family has it.

    The weights are BF16 because autocast converts them in every request (bert-base, sequence 128: 69 against 77 ms).
    """

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

        torch.set_num_threads(threads)
        self._torch = torch
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        answers_questions = "ForQuestionAnswering" in config["architectures"][0]
        kind = AutoModelForQuestionAnswering if answers_questions else AutoModelForSequenceClassification
        self._inputs = architecture_of(config).inputs(config)
        self._names = ("start_logits", "end_logits") if answers_questions else ("logits",)
        self._model = kind.from_pretrained(
            folder, dtype=torch.bfloat16, use_safetensors=True, local_files_only=True
        ).eval()

    def run(self, inputs: Inputs) -> list[Array]:
        """See :class:`Session`."""
        torch = self._torch
        tensors = {name: torch.from_numpy(inputs[name]) for name in self._inputs}
        with torch.inference_mode():
            result = self._model(**tensors)
        return [result[name].float().numpy() for name in self._names]


def variants(rival: str, cell: Cell) -> list[Variant]:
    """The variants of a runtime that may be the fastest for a cell."""
    if rival in _ORT_FILES:
        return [Variant(note, partial(_open_onnx, name)) for name, note in _ORT_FILES[rival]]
    if rival in _OPENVINO:
        name, precisions = _OPENVINO[rival]
        return list(_openvino_variants(name, precisions, cell))
    if rival in _TORCH:
        return [Variant(*_TORCH[rival])]
    if rival in (OURS, OWN_DENSE):  # they differ only in the environment of the process
        return [Variant("", _open_ours)]
    if rival == OURS_OPENVINO:
        return [Variant("f32 precision hint, latency hint", _open_ours_in_openvino)]
    raise ValueError(f"expected a rival of {', '.join((OURS, *RIVALS))}; found {rival!r}")


def environment(rival: str) -> dict[str, str]:
    """Environment variables of a runtime's process."""
    return {"SPARSE_DEPLOY_LAYOUT": "dense"} if rival == OWN_DENSE else {}


_ORT_FILES = {
    # Fusion does not speed FP32 up (bert-base, sequence 128: 116.9 against 116.3 ms).
    "ort_fp32": ((FP32_ONNX, "our export"),),
    "ort_dynamic_int8": ((DYNAMIC_ONNX, "our export"), (DYNAMIC_FUSED, "onnxruntime.transformers fusion")),
    "ort_qdq_int8": ((QDQ_ONNX, "our export"),),
}
# None sets no precision hint: OpenVINO then computes in BF16 if the CPU supports it.
_OPENVINO: dict[str, tuple[str, tuple[str | None, ...]]] = {
    "openvino_fp32": (FP32_IR, ("f32",)),
    "openvino_bf16": (FP32_IR, (None,)),
    "openvino_int8": (QDQ_IR, ("f32", "bf16")),
}


def _open_onnx(name: str, folder: Path, cell: Cell, threads: int) -> Session:
    if not (folder / name).is_file():
        raise RuntimeUnavailableError(f"{name} is not made for this model family")
    from sparse_deploy.runtimes.onnxruntime import OnnxRuntimeSession

    return PackageSession(OnnxRuntimeSession(folder / name, threads, int8=name != FP32_ONNX))


def _open_ours(folder: Path, cell: Cell, threads: int) -> Session:
    from sparse_deploy.kernels.loader import onnxruntime_library
    from sparse_deploy.runtimes.onnxruntime import OnnxRuntimeSession

    return PackageSession(OnnxRuntimeSession(folder / SPARSE_ONNX, threads, onnxruntime_library()))


def _open_ours_in_openvino(folder: Path, cell: Cell, threads: int) -> Session:
    from sparse_deploy.kernels.openvino_extension import openvino_library

    return OpenVinoSession(folder / SPARSE_IR, cell, threads, "f32", extension=openvino_library())


def _open_torch_fp32(folder: Path, cell: Cell, threads: int) -> Session:
    from sparse_deploy.runtimes.pytorch import PyTorchSession

    return PackageSession(PyTorchSession(folder / WEIGHTS_FILE, "fp32", threads))


def _open_torch_bf16(folder: Path, cell: Cell, threads: int) -> Session:
    return TorchBf16Session(folder, threads)


_TORCH = {"pytorch_fp32": ("fp32", _open_torch_fp32), "pytorch_bf16": ("bf16", _open_torch_bf16)}
RIVALS = (*_ORT_FILES, *_OPENVINO, *_TORCH)


def _openvino_variants(name: str, precisions: tuple[str | None, ...], cell: Cell) -> Iterator[Variant]:
    for precision in precisions:
        note = f"{precision or 'default'} precision hint"

        def latency(folder: Path, cell: Cell, threads: int, precision: str | None = precision) -> Session:
            return OpenVinoSession(folder / name, cell, threads, precision)

        def streams(
            folder: Path, cell: Cell, threads: int, *, split: bool, precision: str | None = precision
        ) -> Session:
            return OpenVinoStreams(folder / name, cell, threads, precision, split=split)

        yield Variant(f"{note}, latency hint", latency)
        if cell.batch > 1:
            yield Variant(f"{note}, throughput hint, batch split over streams", partial(streams, split=True))
            yield Variant(f"{note}, throughput hint, a batch per stream", partial(streams, split=False))


def _compile(
    path: Path, shape: tuple[int, int], threads: int, precision: str | None, hint: str, extension: Path | None = None
) -> Any:
    import openvino

    core = openvino.Core()
    if extension is not None:
        core.add_extension(str(extension))
    model = core.read_model(path)
    model.reshape({port.get_any_name(): list(shape) for port in model.inputs})
    settings: dict[str, Any] = {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    compiled = core.compile_model(model, "CPU", settings)
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if precision is None and found != "bf16":
        raise RuntimeUnavailableError(f"OpenVINO chooses {found} on this CPU, not bf16")
    return compiled
