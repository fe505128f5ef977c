# SPDX-License-Identifier: Apache-2.0
"""Opens files with the native runtimes in a child process, which may crash.

The child reads ``RUNTIME PATH`` lines and writes one word for each; run as ``python -m reliability.native_loads``.
"""

import os
import selectors
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

ADDRESS_BYTES = 5 * 2**30
CPU_SECONDS = 3600


class Child:
    """A child that opens files one after the other and is restarted after each crash."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, runtime: str, path: Path) -> str:
        """Open a file; return the outcome: ``answered``, ``refused``, ``crash SIGNAL`` or ``hang``."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "reliability.native_loads"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                cwd=Path(__file__).parents[1], env=environment,
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{runtime} {path}\n".encode())
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self._seconds):
                self.close()
                return "hang"
        answer = process.stdout.readline().decode().strip()
        if answer:
            return answer
        code = process.wait()
        return f"crash {signal.Signals(-code).name if code < 0 else code}"

    def close(self) -> None:
        """Kill the child."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def summary(outcomes: Counter[str]) -> dict[str, int]:
    """Number of crashes over all signals, and the other outcomes by name."""
    crashes = sum(count for name, count in outcomes.items() if name.startswith("crash"))
    return {"crash": crashes, "hang": outcomes["hang"], **dict(sorted(outcomes.items()))}


def _open(runtime: str, path: Path) -> str:
    import numpy as np

    from sparse_deploy.errors import SparseDeployError
    from sparse_deploy.kernels import loader
    from sparse_deploy.runtimes.onnxruntime import OnnxRuntimeSession
    from sparse_deploy.runtimes.openvino import OpenVinoSession
    from sparse_deploy.runtimes.protocol import Session

    if runtime == "safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            load_file(path)
        except (SafetensorError, KeyError, ValueError):
            return "refused"
        return "answered"
    ones = np.ones((2, 8), np.int64)
    try:
        session: Session
        if runtime == "openvino":
            session = OpenVinoSession(path, 1)
        else:
            session = OnnxRuntimeSession(path, 1, loader.onnxruntime_library() if runtime == "sparse" else None)
        session.run({"input_ids": ones, "attention_mask": ones, "token_type_ids": 0 * ones})
    except (SparseDeployError, MemoryError):
        return "refused"
    return "answered"


def main() -> None:
    """Run the child's loop."""
    from sparse_deploy.runtimes.probe import _limit

    _limit(ADDRESS_BYTES, CPU_SECONDS)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        runtime, _, path = line.strip().partition(" ")
        print(_open(runtime, Path(path)), file=answers, flush=True)


if __name__ == "__main__":
    main()
