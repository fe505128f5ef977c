# SPDX-License-Identifier: Apache-2.0
"""Which runtime a server uses: what the folder holds and this machine can run, measured side by side."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparse_deploy.errors import ArtifactError, RuntimeUnavailableError
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.runtimes.probe import probe
from sparse_deploy.untrusted.onnx_file import operators_of

# In the order of a tie, and of what is taken unmeasured.
SERVED_RUNTIMES = ("sparse", "openvino-sparse", "openvino", "onnxruntime")
PRECISIONS = ("int8", "fp32")
# The scale is taken from the whole tensor as it comes.
_DYNAMIC_SCALE = "DynamicQuantizeLinear"
# In the softmax of attention OpenVINO sums over a text's tokens, in floating point, in another order where the last
# ones fill no vector of 16. INT8 rounds the sums, and what lies between two steps goes to the other one. Of 218 texts
# in MiniLM 7 % changed their logits with more padding, by up to 0.0014; between lengths that are multiples of 16 none
# did, and neighbours in a batch change none. FP32 changes by 3e-7.
_VECTOR = 16
_ROUNDING = b'type="FakeQuantize"'
# Their layers compute no padding (docs/sparse_operators.md).
_WITHOUT_PADDING = ("sparse", "openvino-sparse")


@dataclass(frozen=True)
class Choice:
    """What a server runs.

    Attributes:
        runtime: its name.
        precision: ``int8`` or ``fp32``.
        milliseconds: median of one short request by candidate, such as ``sparse-int8``; empty when unmeasured.
        refused: why a runtime can't be used for its file here, by candidate.
        batch_invariant: whether a sequence gets the same answer alone and beside others; else each is computed alone.
        length_multiple: lengths to pad to for that.
    """

    runtime: str
    precision: str
    milliseconds: dict[str, float]
    refused: dict[str, str] = field(default_factory=dict)
    batch_invariant: bool = True
    length_multiple: int = 1

    @property
    def cell(self) -> str:
        """Runtime and precision as ``bench`` names its cells."""
        return f"{self.runtime}-{self.precision}"

    @property
    def computes_padding(self) -> bool:
        """Whether a batch takes the time of its padding, too."""
        return self.runtime not in _WITHOUT_PADDING


def choose_runtime(
    folder: Path, runtime: str, precision: str | None, threads: int, *, tokens: int, measure: bool = True
) -> Choice:
    """Choose among the files of a deployment.

    Args:
        folder: the deployment.
        runtime: a name, or ``auto`` for the fastest of those whose answers don't depend on the batch; if there is none,
            of all.
        precision: None for INT8 where a runtime at hand has it.
        threads: of one request.
        tokens: length of the requests that are measured.
        measure: open and measure each candidate in a process of its own; otherwise take the first.

    Raises:
        RuntimeUnavailableError: the runtime that was asked for is not installed, or no candidate is right on this CPU.
        ArtifactError: no file of the folder fits, or one kills or stalls the process that opens it.
    """
    names = SERVED_RUNTIMES if runtime == "auto" else (runtime,)
    if runtime != "auto":
        get_runtime(runtime).version()  # says what is missing
    for wanted in PRECISIONS if precision is None else (precision,):
        candidates = [name for name in names if _can_open(name, folder, wanted)]
        invariant = [name for name in candidates if is_batch_invariant(name, folder, wanted)]
        if candidates:
            chosen = invariant or candidates
            found = _fastest(folder, chosen, wanted, threads, tokens) if measure else Choice(chosen[0], wanted, {})
            multiple = length_multiple(found.runtime, folder, wanted)
            return dataclasses.replace(found, batch_invariant=bool(invariant), length_multiple=multiple)
    raise ArtifactError(
        f"{folder}: no {precision or 'model'} file for {', '.join(names)} here; install the runtime, ask for another "
        f"one, or export again with its target"
    )


def is_batch_invariant(name: str, folder: Path, precision: str) -> bool:
    """Whether a sequence gets the same answer alone and beside others.

    Dynamic INT8 in ONNX files takes one scale for all rows of a batch, padding included. OpenVINO runs such products in
    FP32 or with a scale per token, and the sparse operators have a scale per token.
    """
    path = folder / get_runtime(name).files[precision]
    return path.suffix != ".onnx" or _DYNAMIC_SCALE not in operators_of(path)


def length_multiple(name: str, folder: Path, precision: str) -> int:
    """The number of tokens to whose multiples sequences are padded, so that more padding changes no answer."""
    path = folder / get_runtime(name).files[precision]
    return _VECTOR if path.suffix == ".xml" and _ROUNDING in path.read_bytes() else 1


def _can_open(name: str, folder: Path, precision: str) -> bool:
    runtime = get_runtime(name)
    return precision in runtime.files and (folder / runtime.files[precision]).is_file() and runtime.available()


def _fastest(folder: Path, candidates: Sequence[str], precision: str, threads: int, tokens: int) -> Choice:
    measured, refused = dict[str, float](), dict[str, str]()
    for name in candidates:
        try:
            measured[name] = probe(name, folder, precision, threads, tokens=tokens).median_ms
        except RuntimeUnavailableError as error:
            refused[name] = str(error)
    if not measured:
        raise RuntimeUnavailableError("; ".join(refused.values()))
    best = min(measured, key=lambda name: measured[name])
    return Choice(
        best,
        precision,
        {f"{name}-{precision}": value for name, value in measured.items()},
        {f"{name}-{precision}": reason for name, reason in refused.items()},
    )
