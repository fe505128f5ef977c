# SPDX-License-Identifier: Apache-2.0
"""Tests a model in a child process: opens it, runs requests, measures the time.

Run as ``python -m sparse_deploy.runtimes.probe``. The child sets limits (memory, CPU time, file size, no core dump)
before it imports a runtime. Any failure of a native library, from an exception to a segmentation fault, reaches the
caller as one typed error.
"""

import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sparse_deploy.errors import (
    ArtifactError,
    CheckpointError,
    ConfigError,
    RuntimeUnavailableError,
    SparseDeployError,
)
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.runtimes.child_process import describe_end, end_with_parent, worker_environment
from sparse_deploy.runtimes.protocol import Array, read_config, usable_length

# Address space. bert-large in FP32, 1.27 GiB in its file, took 3.2 GiB in OpenVINO and 2.2 in ONNX Runtime, MiniLM 0.7
# and 0.4 (2 threads, batch of 3 x 128). Libraries, stacks and allocator arenas are the rest and grow with the threads.
_BASE_BYTES = 4 * 2**30
_THREAD_BYTES = 2**28
_FILE_FACTOR = 4
_OUTPUT_BYTES = 1 << 20
_CORES_BESIDE_THREADS = 2
_WARM_UP = 3
_TIMED, _TIMED_SECONDS = 20, 1.0
_LAST_WORDS = 300
# Errors that a child may report; other output means an invalid artifact.
_REPORTED = {kind.__name__: kind for kind in (ArtifactError, CheckpointError, ConfigError, RuntimeUnavailableError)}


@dataclass(frozen=True)
class ProbeResult:
    """The result of a child.

    Attributes:
        load_seconds: opening the file, without the import of the runtime.
        median_ms: median of requests ``[1, tokens]``, after a short warm-up.
        peak_memory_bytes: largest resident set of the child.
    """

    load_seconds: float
    median_ms: float
    peak_memory_bytes: int


def probe(
    runtime_name: str, folder: Path, precision: str, threads: int, *, tokens: int, seconds: float = 120.0
) -> ProbeResult:
    """Open a model of a deployment in a child process and run a few batches.

    Args:
        runtime_name: see :func:`sparse_deploy.runtimes.get_runtime`.
        folder: the deployment.
        precision: ``fp32`` or ``int8``.
        threads: threads of one request.
        tokens: length of the requests, limited to the model's longest input.
        seconds: time after which the child counts as hung.

    Raises:
        RuntimeUnavailableError: the runtime is not installed.
        ArtifactError: the file is missing or refused, or it crashes, stalls or exhausts the child, or returns invalid
            results.
    """
    runtime = get_runtime(runtime_name)
    name = runtime.files.get(precision)
    if name is None:
        raise ArtifactError(f"{runtime_name}: expected precision {' or '.join(runtime.files)}, found {precision!r}")
    task = {
        "runtime": runtime_name,
        "folder": str(folder),
        "precision": precision,
        "threads": threads,
        "tokens": tokens,
        "address_bytes": _BASE_BYTES + threads * _THREAD_BYTES + _FILE_FACTOR * _model_bytes(folder / name),
        "cpu_seconds": math.ceil(seconds) * (threads + _CORES_BESIDE_THREADS),
    }
    # -P: a package in the working folder must not be imported instead of this one.
    command = [sys.executable, "-P", "-m", "sparse_deploy.runtimes.probe", json.dumps(task)]
    answer = run_isolated(command, folder / name, threads, seconds)
    try:
        result = ProbeResult(**answer)
        whole = all(math.isfinite(value) and value >= 0 for value in asdict(result).values())
    except TypeError:
        whole = False
    if not whole:
        raise ArtifactError(f"{folder / name}: its process gave an invalid response; the model file may be malicious")
    return result


def run_isolated(command: list[str], file: Path, threads: int, seconds: float) -> dict[str, Any]:
    """Run a child that prints one JSON object; its output is buffered in memory, so it can't block on a full pipe.

    Args:
        command: command line of the child.
        file: the opened file, for messages.
        threads: size of the child's thread pools.
        seconds: time limit.

    Raises:
        ArtifactError: the child crashed, hung or printed other output.
        SparseDeployError: the error that the child reported.
    """
    with os.fdopen(os.memfd_create("answer"), "rb") as out, os.fdopen(os.memfd_create("messages"), "rb") as err:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=worker_environment(threads),
            start_new_session=True,
        )
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise ArtifactError(f"{file}: its process did not respond within {seconds:g} s and was ended") from error
        finally:
            child.kill()
            child.wait()
        answer = _json_object(_head(out))
        words = " ".join(_tail(err).decode("utf-8", "replace").split())[-_LAST_WORDS:]
    if "error" in answer:
        raise _REPORTED.get(str(answer["error"]), ArtifactError)(str(answer.get("message", "")))
    if child.returncode != 0:
        said = f"; it last wrote: {words}" if words else ""
        raise ArtifactError(f"{file}: its process {describe_end(child.returncode)} while opening or answering{said}")
    if not answer:
        raise ArtifactError(f"{file}: its process gave an invalid response; the model file may be malicious")
    return answer


def main() -> None:
    """Run the child."""
    task = json.loads(sys.argv[1])
    _limit(task["address_bytes"], task["cpu_seconds"])
    # Native libraries print to descriptor 1. The result uses a private copy; other output goes to stderr.
    private = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    what = (task["runtime"], Path(task["folder"]), task["precision"])
    try:
        answer = asdict(_measure(*what, task["threads"], task["tokens"]))
    except SparseDeployError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        limit = task["address_bytes"]
        message = f"{what[1]}: {what[0]} {what[2]} needs more than {limit} bytes of address space; export again"
        answer = {"error": ArtifactError.__name__, "message": message}
    os.write(private, json.dumps(answer).encode())
    # A runtime's threads that hang in destructors must not prevent the serving of a valid model.
    os._exit(0)


def _limit(address_bytes: int, cpu_seconds: int) -> None:
    end_with_parent()
    with contextlib.suppress(OSError):  # when memory runs out, the kernel kills this process before the server
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, _OUTPUT_BYTES),
        (resource.RLIMIT_AS, address_bytes),
    ):
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))


def _measure(runtime_name: str, folder: Path, precision: str, threads: int, tokens: int) -> ProbeResult:
    runtime = get_runtime(runtime_name)
    runtime.version()
    config = read_config(folder)
    start = time.perf_counter()
    session = runtime.open(folder, precision, threads)
    load_seconds = time.perf_counter() - start
    tokens = max(min(tokens, usable_length(folder) or tokens), 1)
    vocabulary = _whole(config, "vocab_size", 1)
    one = _batch(1, tokens, vocabulary)
    for batch in (_batch(3, max(tokens // 2, 1), vocabulary), *[one] * _WARM_UP):
        if not all(np.isfinite(output).all() for output in session.run(batch)):
            raise ArtifactError(f"{folder / runtime.files[precision]}: its output has NaN or infinity; export again")
    times: list[float] = []
    deadline = time.perf_counter() + _TIMED_SECONDS
    while len(times) < _TIMED and (len(times) < _WARM_UP or time.perf_counter() < deadline):
        begin = time.perf_counter()
        session.run(one)
        times.append((time.perf_counter() - begin) * 1e3)
    return ProbeResult(load_seconds, median(times), _peak_memory())


def _batch(rows: int, tokens: int, vocabulary: int) -> dict[str, Array]:
    """Rows of different tokens; with several rows, the last is half padding."""
    ids = (np.arange(rows * tokens, dtype=np.int64) * 7 % max(vocabulary, 1)).reshape(rows, tokens)
    mask = np.ones_like(ids)
    if rows > 1:
        mask[-1, (tokens + 1) // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _whole(config: dict[str, Any], key: str, default: int) -> int:
    value = config.get(key)
    return value if type(value) is int and value > 0 else default


def _peak_memory() -> int:
    """Peak memory of this program only; ``getrusage`` would include the forked parent."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _model_bytes(path: Path) -> int:
    return sum(one.stat().st_size for one in (path, path.with_suffix(".bin")) if one.is_file())


def _head(stream: Any) -> bytes:
    stream.seek(0)
    data: bytes = stream.read(_OUTPUT_BYTES)
    return data


def _tail(stream: Any) -> bytes:
    stream.seek(max(stream.seek(0, os.SEEK_END) - _OUTPUT_BYTES, 0))
    data: bytes = stream.read(_OUTPUT_BYTES)
    return data


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    main()
