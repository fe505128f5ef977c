# SPDX-License-Identifier: Apache-2.0
"""Choice of a server's runtime: measures the files of the folder that this machine can run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparse_deploy.errors import ArtifactError, RuntimeUnavailableError
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.runtimes.probe import probe
from sparse_deploy.untrusted.onnx_file import operators_of

# In the order of preference for ties, and without measurement.
SERVED_RUNTIMES = ("sparse", "openvino-sparse", "openvino", "onnxruntime")
PRECISIONS = ("int8", "fp32")
# The scale is computed from the whole tensor, including padding.
_DYNAMIC_SCALE = "DynamicQuantizeLinear"
# In the softmax of attention OpenVINO sums over a text's tokens in floating point, in another order if the last tokens
# do not fill a vector of 16. INT8 rounds the sums, and a sum between two steps may get the other step. With lengths
# that are multiples of 16 no logit changes with more padding, and other sequences in a batch never change logits
# (tests/contract/test_batch_invariance.py).
_VECTOR = 16
_ROUNDING = b'type="FakeQuantize"'
# Runtimes whose layers skip padding (docs/sparse_operators.md).
_WITHOUT_PADDING = ("sparse", "openvino-sparse")


@dataclass(frozen=True)
class Choice:
    """The choice of a server.

    Attributes:
        runtime: name of the runtime.
        precision: ``int8`` or ``fp32``.
        milliseconds: median of one short request by candidate, such as ``sparse-int8``; empty without measurement.
        refused: reason why a runtime can't be used with its file on this machine, by candidate.
        batch_invariant: whether results do not depend on other sequences in a batch; else each is computed alone.
        length_multiple: padded lengths are multiples of this, for batch invariance.
    """

    runtime: str
    precision: str
    milliseconds: dict[str, float]
    refused: dict[str, str] = field(default_factory=dict)
    batch_invariant: bool = True
    length_multiple: int = 1

    @property
    def cell(self) -> str:
        """Runtime and precision in the form of ``bench``'s cell ids."""
        return f"{self.runtime}-{self.precision}"

    @property
    def computes_padding(self) -> bool:
        """Whether padding in a batch takes time."""
        return self.runtime not in _WITHOUT_PADDING


def choose_runtime(
    folder: Path, runtime: str, precision: str | None, threads: int, *, tokens: int, measure: bool = True
) -> Choice:
    """Choose among the files of a deployment.

    Args:
        folder: the deployment.
        runtime: a name, or ``auto`` for the fastest batch-invariant runtime; if there is none, for the fastest of all.
        precision: None means INT8 if an available runtime has it.
        threads: threads of one request.
        tokens: length of the measured requests.
        measure: open and measure each candidate in a separate process; otherwise take the first.

    Raises:
        RuntimeUnavailableError: the requested runtime is not installed, or no candidate is exact on this CPU.
        ArtifactError: no file of the folder fits, or a file crashes or hangs the process that opens it.
    """
    names = SERVED_RUNTIMES if runtime == "auto" else (runtime,)
    if runtime != "auto":
        get_runtime(runtime).version()  # raises an error with the missing package
    for wanted in PRECISIONS if precision is None else (precision,):
        candidates = [name for name in names if _can_open(name, folder, wanted)]
        invariant = [name for name in candidates if is_batch_invariant(name, folder, wanted)]
        if candidates:
            chosen = invariant or candidates
            found = _fastest(folder, chosen, wanted, threads, tokens) if measure else Choice(chosen[0], wanted, {})
            multiple = length_multiple(found.runtime, folder, wanted)
            return dataclasses.replace(found, batch_invariant=bool(invariant), length_multiple=multiple)
    raise ArtifactError(
        f"{folder}: no {precision or 'model'} file for {', '.join(names)}; install the runtime, request another "
        f"runtime, or export again with its target"
    )


def is_batch_invariant(name: str, folder: Path, precision: str) -> bool:
    """Whether the result of a sequence does not depend on other sequences in its batch.

    Dynamic INT8 in ONNX files uses one scale for all rows of a batch, including padding. OpenVINO runs such products in
    FP32 or with a scale per token, and the sparse operators have a scale per token.
    """
    path = folder / get_runtime(name).files[precision]
    return path.suffix != ".onnx" or _DYNAMIC_SCALE not in operators_of(path)


def length_multiple(name: str, folder: Path, precision: str) -> int:
    """The number of tokens to whose multiples sequences are padded, so that more padding changes no result."""
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
