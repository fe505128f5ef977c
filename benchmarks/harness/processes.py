# SPDX-License-Identifier: Apache-2.0
"""The parent's side: one worker process per rival, spoken to one at a time, and ended whatever happens."""

import contextlib
import json
import selectors
import subprocess
import sys
import tempfile
from typing import IO, Any, Self

import psutil

from harness.models import child_environment
from harness.sessions import UnavailableError

SILENCE_SECONDS = 300.0
_CLOSE_SECONDS = 5.0
# Variables that size the pools of PyTorch, MKL and NumPy before any of them is imported.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerError(RuntimeError):
    """A worker raised, died or hung; the message is one line and names it."""


class RivalProcess:
    """A running :mod:`harness.worker`.

    Args:
        rival: whose it is, for messages.
        threads: size of the process's thread pools.
        variables: further environment variables.
    """

    def __init__(self, rival: str, threads: int, **variables: str) -> None:
        self.rival = rival
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(**dict.fromkeys(_THREAD_VARIABLES, str(threads)), **variables),
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the rest
        )

    def call(self, command: str, **arguments: object) -> dict[str, Any]:
        """Run a command of :class:`harness.worker.Worker`.

        Raises:
            UnavailableError: this machine has no such rival.
            WorkerError: it raised, died or hung.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._died(command) from error
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(SILENCE_SECONDS):
                raise WorkerError(f"{self.rival}: no answer to {command!r} within {SILENCE_SECONDS:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._died(command)
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise UnavailableError(answer["unavailable"])
        if "error" in answer:
            raise WorkerError(f"{self.rival}: {command} failed: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def cpu_seconds(self) -> float:
        """CPU time that all threads of the process used so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        """End the process, politely first."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _died(self, command: str) -> WorkerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_SECONDS)
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        words = f"; it last wrote: {lines[-1].strip()[:300]}" if lines else ""
        return WorkerError(f"{self.rival}: the process ended ({self._process.returncode}) during {command!r}{words}")


class RivalProcesses(contextlib.AbstractContextManager["RivalProcesses"]):
    """The workers of a cell, by rival; leaving the block ends every one."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._processes: dict[str, RivalProcess] = {}

    def start(self, key: str, threads: int | None = None, **variables: str) -> RivalProcess:
        """Start a worker."""
        self._processes[key] = RivalProcess(key, threads or self._threads, **variables)
        return self._processes[key]

    def stop(self, key: str) -> None:
        """End a worker and forget it."""
        self._processes.pop(key).close()

    def __contains__(self, key: object) -> bool:
        return key in self._processes

    def __getitem__(self, key: str) -> RivalProcess:
        return self._processes[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes.values():
            process.close()
