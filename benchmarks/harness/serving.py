# SPDX-License-Identifier: Apache-2.0
"""Costs of a serving process other than latency: creation of the session, peak memory, file sizes.

``python -m harness.serving RIVAL FOLDER CELL THREADS`` is such a process: it imports only numpy and the runtime, opens
the model, answers twenty requests, and prints its peak memory. Its parent starts new processes and compares them.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from harness.cells import Cell, parse_cell
from harness.models import DYNAMIC_ONNX, QDQ_ONNX, SPARSE_ONNX, child_environment, random_inputs
from harness.rounds import Progress
from harness.sessions import OURS, Session, variants
from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.measurement.cpu_time import ForeignTime

SERVED = (OURS, "ort_dynamic_int8", "ort_qdq_int8")
REQUESTS = 20
_FILES = {OURS: SPARSE_ONNX, "ort_dynamic_int8": DYNAMIC_ONNX, "ort_qdq_int8": QDQ_ONNX}
_MB = 1e6


def measure_serving(cell: Cell, folder: Path, threads: int, repeats: int, progress: Progress) -> dict[str, Any]:
    """Start new serving processes of the candidate and of ONNX Runtime's INT8, in turns.

    Args:
        cell: shape of the requests.
        folder: the model's files.
        threads: threads of each process.
        repeats: processes per runtime.
        progress: called at each start.

    Returns:
        By runtime, the median seconds to create the session and the median peak; file and packed sizes.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    missing: dict[str, str] = {}
    for turn in range(repeats):
        for rival in SERVED:
            progress(f"{cell.name}: serving process {turn + 1} of {rival}")
            answer = _child(rival, folder, cell, threads)
            if "unavailable" in answer:
                missing[rival] = answer["unavailable"]
            else:
                found.setdefault(rival, []).append(answer)
    rivals = {
        rival: {
            **{name: round(median(run[name] for run in runs), 3) for name in runs[0]},
            "file_mb": round((folder / _FILES[rival]).stat().st_size / _MB, 1),
        }
        for rival, runs in found.items()
    }
    record: dict[str, Any] = {"kind": "serving", "cell": cell.name, "rivals": rivals, "missing": missing}
    if OURS in rivals:
        record |= packed_sizes(folder / SPARSE_ONNX)
        dense = [rivals[rival]["peak_mb"] for rival in SERVED if rival in rivals and rival != OURS]
        record["session_creation_s"] = rivals[OURS]["creation_s"]
        record["peak_mb"], record["dense_int8_peak_mb"] = rivals[OURS]["peak_mb"], min(dense, default=None)
    return record


def packed_sizes(path: Path) -> dict[str, Any]:
    """Bytes of a sparse file's weights: dense INT8, as stored in the file, and as packed for this CPU.

    Raises:
        RuntimeUnavailableError: the kernels were not built.
    """
    import onnx
    from onnx import numpy_helper

    from sparse_deploy.kernels.native import Weight

    dense = stored = packed = 0
    kernels: dict[str, int] = {}
    graph = onnx.load(path).graph
    blobs = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.UINT8}
    used = {name for node in graph.node if node.domain == "sparse_deploy" for name in node.input}
    for name in sorted(used & blobs.keys()):
        blob = numpy_helper.to_array(blobs[name])
        if blob.ndim != 1 or blob.size < 32:
            continue  # zero points
        info = Weight(blob).describe()
        dense += info.shape[0] * info.shape[1]
        stored += blob.size
        packed += info.packed_bytes
        kernels[info.layout] = kernels.get(info.layout, 0) + 1
    return {
        "dense_int8_weights_mb": round(dense / _MB, 2),
        "stored_ratio": round(stored / dense, 3),
        "packed_ratio": round(packed / dense, 3),
        "kernels": kernels,
    }


def _child(rival: str, folder: Path, cell: Cell, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "harness.serving", rival, str(folder), cell.name, str(threads)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=child_environment(OMP_NUM_THREADS=str(threads)), check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise RuntimeError(f"serving process of {rival} failed: {lines[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _serve(rival: str, folder: Path, cell: Cell, threads: int) -> dict[str, Any]:
    import onnxruntime  # noqa: F401 - the timed creation excludes the import

    before = _peak_bytes()
    foreign, start = ForeignTime(), time.perf_counter()
    # The first variant of each runtime is this project's file.
    session: Session = variants(rival, cell)[0].open(folder, cell, threads)
    creation = time.perf_counter() - start
    foreign_seconds = foreign.seconds
    inputs = random_inputs(cell.batch, cell.sequence)
    for _ in range(REQUESTS):
        session.run(inputs)
    return {
        "creation_s": creation,
        "foreign_cpu_s": foreign_seconds,
        "peak_mb": _peak_bytes() / _MB,
        "import_mb": before / _MB,
    }


def _peak_bytes() -> int:
    """``VmHWM``: the largest resident size of this process (proc_pid_status(5))."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _main(arguments: Sequence[str]) -> None:
    rival, folder, cell, threads = arguments
    try:
        answer = _serve(rival, Path(folder), parse_cell(cell), int(threads))
    except RuntimeUnavailableError as error:
        answer = {"unavailable": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(sys.argv[1:])
