# SPDX-License-Identifier: Apache-2.0
"""Time of one inference per operator (ONNX Runtime's profiler) and per phase of the sparse operators (the kernels).

``python -m harness.profile RIVAL FOLDER CELL THREADS`` profiles in a separate process, because the kernels read the
setting that enables their timers at load.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from harness.cells import Cell, parse_cell
from harness.models import DYNAMIC_FUSED, FP32_ONNX, QDQ_ONNX, SPARSE_ONNX, child_environment, random_inputs
from harness.rounds import Progress
from harness.sessions import OURS
from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.runtimes.onnxruntime import OnnxRuntimeSession, add_operators

PROFILED = {
    OURS: SPARSE_ONNX,
    "ort_fp32": FP32_ONNX,
    "ort_dynamic_int8": DYNAMIC_FUSED,
    "ort_qdq_int8": QDQ_ONNX,
}
_WARM_UP = 5
_KERNEL_EVENT = "_kernel_time"


def measure_profile(
    cell: Cell, folder: Path, threads: int, rivals: Iterable[str], progress: Progress
) -> dict[str, Any]:
    """Profile the candidate and the ONNX Runtime baselines.

    Returns:
        By runtime: ``total_ms`` (median inference), ``operators`` and, for the candidate, ``phases``: milliseconds per
        inference by name. Phases are summed over threads.
    """
    record: dict[str, Any] = {"kind": "profile", "cell": cell.name, "rivals": {}, "missing": {}}
    for rival in (name for name in rivals if name in PROFILED):
        progress(f"{cell.name}: profiling {rival}")
        answer = _child(rival, folder, cell, threads)
        record["missing" if "unavailable" in answer else "rivals"][rival] = answer.get("unavailable", answer)
    return record


def operator_times(events: Iterable[Mapping[str, Any]], inferences: int) -> dict[str, float]:
    """Milliseconds per inference by operator type, largest first, from the events of ONNX Runtime's profile."""
    total: dict[str, float] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith(_KERNEL_EVENT):
            name = event["args"]["op_name"]
            total[name] = total.get(name, 0.0) + event["dur"] / 1e3
    return _sorted({name: value / inferences for name, value in total.items()})


def profile_text(record: Mapping[str, Any]) -> str:
    """The record as text for a terminal: name, milliseconds, share of the inference."""
    lines = [record["cell"]]
    for rival, answer in record["rivals"].items():
        lines.append(f"  {rival}: {answer['total_ms']:.2f} ms per inference")
        for title in ("operators", "phases"):
            if title in answer:
                lines.append(f"    {title}" + (", summed over threads" if title == "phases" else ""))
                lines += [
                    f"      {name:<30}{value:9.3f} ms {value / answer['total_ms']:7.1%}"
                    for name, value in answer[title].items()
                ]
    lines += [f"  {rival}: {reason}" for rival, reason in record["missing"].items()]
    return "\n".join(lines)


def _sorted(times: Mapping[str, float]) -> dict[str, float]:
    return {name: round(times[name], 4) for name in sorted(times, key=lambda name: -times[name])}


def _child(rival: str, folder: Path, cell: Cell, threads: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "harness.profile", rival, str(folder), cell.name, str(threads)],
        capture_output=True,
        text=True,
        env=child_environment(SPARSE_DEPLOY_PROFILE="1"),
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise RuntimeError(f"profile of {rival} failed: {lines[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _profile(rival: str, folder: Path, cell: Cell, threads: int) -> dict[str, Any]:
    from sparse_deploy.kernels import loader

    library = loader.onnxruntime_library() if rival == OURS else None
    inputs = random_inputs(cell.batch, cell.sequence)
    answer: dict[str, Any] = {}
    # Each inference writes events for each node; the first session measures times, the second records events.
    session = OnnxRuntimeSession(folder / PROFILED[rival], threads, library)
    for _ in range(_WARM_UP):
        session.run(inputs)
    if library is not None:
        loader.profile(loader.ONNXRUNTIME)  # discards the warm-up's times
    samples: list[float] = []
    start = time.perf_counter()
    while len(samples) < 5 or time.perf_counter() - start < 2.0:
        begin = time.perf_counter()
        session.run(inputs)
        samples.append((time.perf_counter() - begin) * 1e3)
    answer["total_ms"] = round(median(samples), 3)
    if library is not None:
        phases = loader.profile(loader.ONNXRUNTIME)
        answer["phases"] = _sorted({name: seconds * 1e3 / len(samples) for name, seconds in phases.items()})
    del session
    with tempfile.TemporaryDirectory(prefix="sparse-deploy-profile-") as scratch:
        profiled = _profiled_session(folder / PROFILED[rival], threads, library, Path(scratch, "ort"))
        for _ in range(len(samples)):
            profiled.run(None, inputs)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    answer["operators"] = operator_times(events, len(samples))
    return answer


def _profiled_session(path: Path, threads: int, library: Path | None, prefix: Path) -> Any:
    """The session of :class:`OnnxRuntimeSession`, with the profiler switched on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if library is not None:
        add_operators(options, library)
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _main(arguments: Sequence[str]) -> None:
    rival, folder, cell, threads = arguments
    try:
        answer = _profile(rival, Path(folder), parse_cell(cell), int(threads))
    except RuntimeUnavailableError as error:
        answer = {"unavailable": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(sys.argv[1:])
