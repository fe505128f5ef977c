# SPDX-License-Identifier: Apache-2.0
"""The engine of a Ray cluster: that of RAY_ADDRESS, or one of its own on this machine that ends with the sweep.

Ray runs what it is sent, so a cluster of our own listens on the loopback address only, with a token that nobody else
knows. The shell's settings decide how a cluster of RAY_ADDRESS is reached.
"""

import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from sparse_deploy.errors import ConfigError, ExitCode, RuntimeUnavailableError, SparseDeployError
from sparse_deploy.machine import describe_machine
from sparse_deploy.sweep.cell import Job, Outcome, fail_job, run_job
from sparse_deploy.sweep.engine import Outcomes

ADDRESS_VARIABLE = "RAY_ADDRESS"
# How often a job whose worker or node died is given to another one. A job that ended by itself is not run again.
MAX_RETRIES = 2
_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's least is 75 MiB, its default 30 % of the memory; jobs pass a page of JSON
_POLL_SECONDS = 1.0
_CANCEL_SECONDS = 25.0


class RayEngine:
    """Tasks of Ray.

    Args:
        cpus_per_task: CPUs that a task reserves, and that its processes are bound to.

    Raises:
        RuntimeUnavailableError: Ray is not installed.
    """

    def __init__(self, cpus_per_task: int) -> None:
        self._cpus = cpus_per_task
        self._address = os.environ.get(ADDRESS_VARIABLE) or "local"
        self._own = self._address == "local"
        self._scratch: Path | None = None
        if self._own:
            _close_off()
        self._ray = _load_ray()

    def __enter__(self) -> Self:
        before = signal.getsignal(signal.SIGTERM)
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self._own:
            self._scratch = Path(tempfile.mkdtemp(prefix="sdray-"))  # short: sockets in it have 107 bytes for a path
            options |= {
                "num_cpus": describe_machine().usable_cpus,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": str(self._scratch),
            }
        try:
            self._ray.init(self._address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            self.__exit__()
            reason = " ".join(str(error).split())[:300]
            raise RuntimeUnavailableError(f"Ray at {self._address!r} can't be reached: {reason}") from error
        signal.signal(signal.SIGTERM, before)  # Ray's own handler would exit without telling the jobs
        self._nodes = [node for node in self._ray.nodes() if node["Alive"]]
        most = max((node["Resources"].get("CPU", 0) for node in self._nodes), default=0)
        if most < self._cpus:
            self.__exit__()
            raise ConfigError(
                f"--cpus-per-task: {self._cpus} CPUs are asked for, no node of Ray has more than {most:g}"
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def check_folder(self, folder: Path) -> None:
        """See :class:`sparse_deploy.sweep.engine.Engine`."""
        look = self._ray.remote(num_cpus=0)(_sees)
        answers = {
            node["NodeManagerAddress"]: look.options(scheduling_strategy=self._on(node)).remote(str(folder))
            for node in self._nodes
        }
        blind = [address for address, answer in answers.items() if not self._ray.get(answer)]
        if blind:
            raise ConfigError(
                f"{folder}: the Ray node {blind[0]} does not see this folder; --output has to lie on storage that all "
                f"nodes share, under the same path"
            )

    def run(self, jobs: Sequence[Job], *, exclusive: bool = False) -> Outcomes:
        """See :class:`sparse_deploy.sweep.engine.Engine`."""
        if not exclusive:
            yield from self._run_together(jobs, self._cpus, {})
            return
        # Latencies are compared, so all are measured on one node: the largest.
        node = max(self._nodes, key=lambda one: (one["Resources"].get("CPU", 0), one["NodeID"]))
        for job in jobs:
            cpus = int(node["Resources"]["CPU"])
            yield from self._run_together([job], cpus, {"scheduling_strategy": self._on(node)})

    def _run_together(self, jobs: Sequence[Job], cpus: int, options: dict[str, Any]) -> Outcomes:
        task = self._ray.remote(num_cpus=cpus, max_retries=MAX_RETRIES, **options)(_run)
        running = {task.remote(job.model_dump(mode="json"), cpus): job for job in jobs}
        try:
            while running:
                ended, _ = self._ray.wait(list(running), timeout=_POLL_SECONDS)
                for reference in ended:
                    job = running.pop(reference)
                    yield job, self._outcome(job, reference)
        finally:
            self._cancel(list(running))

    def _outcome(self, job: Job, reference: Any) -> Outcome:
        errors = self._ray.exceptions
        try:
            return Outcome.model_validate(self._ray.get(reference))
        except errors.RayTaskError as error:
            if isinstance(error.cause, SparseDeployError):
                raise error.cause from None
            raise
        except errors.RayError as error:  # the worker or its node died, MAX_RETRIES + 1 times
            reason = str(error).strip().splitlines()[0]
            return fail_job(job, ExitCode.INCONCLUSIVE, f"Ray lost the job {MAX_RETRIES + 1} times: {reason}")

    def _cancel(self, running: list[Any]) -> None:
        """Interrupt jobs, and give their processes the time that they have to end politely."""
        for reference in running:
            self._ray.cancel(reference)
        if running:
            self._ray.wait(running, num_returns=len(running), timeout=_CANCEL_SECONDS)

    def _on(self, node: dict[str, Any]) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _run(job: dict[str, Any], cpus: int) -> dict[str, Any]:
    """The task."""
    # Cancelling is Ray's Ctrl-C in the worker, which inherits "ignore" from a driver that a shell put in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run_job(Job.model_validate(job), cpus).model_dump(mode="json")


def _sees(folder: str) -> bool:
    return Path(folder).is_dir()


def _close_off() -> None:
    """Set what Ray reads from the environment when it is imported, for a cluster that serves this process only."""
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray 2.60 turns a node address of 127.0.0.1 into the machine's own and then listens on every interface; without
        # clusters, which this switches off on any system, all its sockets are on the loopback address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)


def _load_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RuntimeUnavailableError(
            "--engine ray needs Ray, which is not installed here: pip install 'sparse-deploy[ray]'"
        ) from error
    return ray
