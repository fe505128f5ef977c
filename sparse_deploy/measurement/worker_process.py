# SPDX-License-Identifier: Apache-2.0
"""The parent's side of the workers: starts one process per contestant, calls one at a time, and ends them all."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from sparse_deploy import errors
from sparse_deploy.errors import ArtifactError, SparseDeployError
from sparse_deploy.runtimes.child_process import describe_end, worker_environment

# A worker writes at least once per second while it runs requests. Time without output is limited by the longest request
# or load on a slow, shared machine; then the worker counts as hung.
SILENCE_SECONDS = 300.0
_CLOSE_SECONDS = 5.0
_STDERR_BYTES = 4096
_STDERR_LINES = 4


class WorkerProcess:
    """A process that runs :func:`sparse_deploy.measurement.worker.run_worker`.

    Args:
        module: the module to run.
        name: name in messages, such as the id of a cell.
        threads: size of every thread pool in the process.
        scratch: folder for the worker's error output.
        variables: additional environment variables.
        silence_seconds: longest time without output before it counts as hung.
    """

    def __init__(
        self,
        module: str,
        name: str,
        threads: int,
        scratch: Path,
        *,
        variables: Mapping[str, str] | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.name = name
        self._silence = silence_seconds
        self._stderr = scratch / f"{name}.stderr"
        self._pending = b""
        self._busy = ""
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                env={**worker_environment(threads), **(variables or {})},
                # Ctrl-C in a terminal is sent to the whole foreground group. Only the parent handles it.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """CPU time of all threads of the process so far; 0 if it has ended."""
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)

    def call(self, command: str, **arguments: object) -> dict[str, Any]:
        """Run a command of the worker and wait for its result.

        Raises:
            ArtifactError: the worker ended while opening the model (a native parser crashed).
            WorkerError: the worker ended or hung later.
            SparseDeployError: an error that the worker raised.
        """
        self._busy = command
        try:
            self._write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            while True:
                message = json.loads(self._read_line())
                if "result" in message:
                    result: dict[str, Any] = message["result"]
                    return result
                if "error" in message:
                    break
        except BaseException:
            # A half-read answer can't be distinguished from the next answer, so a failed worker is not used again.
            self.kill()
            raise
        self.kill()
        raise _as_error(message["error"], message["message"])

    def close(self) -> None:
        """End the process: close its stdin and wait, then kill it."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _write(self, data: bytes) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            raise self._died()
        view = memoryview(data)
        try:
            while view:
                view = view[self._process.stdin.write(view) or 0 :]
        except OSError as error:
            raise self._died() from error

    def _read_line(self) -> bytes:
        if self._process.stdout is None:
            raise self._died()
        deadline = time.monotonic() + self._silence
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise errors.WorkerError(
                        self.name,
                        f"did not respond for {self._silence:g} s during {self._busy!r}, so it was ended",
                    )
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._died()
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _died(self) -> SparseDeployError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_SECONDS)
        reason = f"{describe_end(self._process.returncode)} during {self._busy!r}{self._last_words()}"
        if self._busy == "open":
            return ArtifactError(
                f"{self.name}: the runtime's process {reason}; the model file may be damaged, or memory too small"
            )
        return errors.WorkerError(self.name, reason)

    def _last_words(self) -> str:
        try:
            text = self._stderr.read_bytes()[-_STDERR_BYTES:].decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()][-_STDERR_LINES:]
        return f"; it last wrote: {' | '.join(lines)}" if lines else ""


class Workers(contextlib.AbstractContextManager["Workers"]):
    """The workers of a run, by name; all end at the end of the block, also after an error.

    Args:
        module: the module to run.
        threads: size of every thread pool, unless a worker is started with another number.
        scratch: folder for the workers' error output.
        variables: additional environment variables of all of them.
        silence_seconds: as for :class:`WorkerProcess`.
    """

    def __init__(
        self,
        module: str,
        threads: int,
        scratch: Path,
        *,
        variables: Mapping[str, str] | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.threads = threads
        self._module = module
        self._scratch = scratch
        self._variables = dict(variables or {})
        self._silence = silence_seconds
        self._workers: dict[str, WorkerProcess] = {}

    def start(self, name: str, threads: int | None = None, variables: Mapping[str, str] | None = None) -> WorkerProcess:
        """Start a process; the arguments are those of :class:`WorkerProcess`."""
        worker = WorkerProcess(
            self._module,
            name,
            threads or self.threads,
            self._scratch,
            variables={**self._variables, **(variables or {})},
            silence_seconds=self._silence,
        )
        self._workers[name] = worker
        return worker

    def stop(self, name: str) -> None:
        """End and remove a process."""
        self._workers.pop(name).close()

    def __contains__(self, name: object) -> bool:
        return name in self._workers

    def __getitem__(self, name: str) -> WorkerProcess:
        return self._workers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            if error is None:
                worker.close()
            else:
                worker.kill()


def _as_error(kind: str, message: str) -> SparseDeployError:
    """The worker's error, of the same class (workers raise only classes with a single message argument)."""
    error: SparseDeployError = getattr(errors, kind)(message)
    return error
