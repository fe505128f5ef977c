# SPDX-License-Identifier: Apache-2.0
"""The engine for a Ray cluster: jobs are tasks of Ray."""

import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from sparse_deploy.errors import ConfigError, ExitCode, SparseDeployError
from sparse_deploy.ray_cluster import ray_cluster
from sparse_deploy.sweep.cell import Job, Outcome, fail_job, run_job
from sparse_deploy.sweep.engine import Outcomes

# Number of retries of a job whose worker or node was lost. A job that ended by itself is not run again.
MAX_RETRIES = 2
_POLL_SECONDS = 1.0
_CANCEL_SECONDS = 25.0


class RayEngine:
    """Runs jobs as tasks of Ray.

    Args:
        cpus_per_task: number of CPUs that a task reserves and to which its processes are bound.
    """

    def __init__(self, cpus_per_task: int) -> None:
        self._cpus = cpus_per_task
        self._cluster = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as cluster:
            self._ray = cluster.enter_context(ray_cluster())
            self._nodes = [node for node in self._ray.nodes() if node["Alive"]]
            most = max((node["Resources"].get("CPU", 0) for node in self._nodes), default=0)
            if most < self._cpus:
                raise ConfigError(
                    f"--cpus-per-task: {self._cpus} CPUs are requested, no node of Ray has more than {most:g}"
                )
            self._cluster = cluster.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.close()

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
                f"{folder}: the Ray node {blind[0]} can't read this folder; --output must be on storage that all "
                f"nodes share, under the same path"
            )

    def run(self, jobs: Sequence[Job], *, exclusive: bool = False) -> Outcomes:
        """See :class:`sparse_deploy.sweep.engine.Engine`."""
        if not exclusive:
            yield from self._run_together(jobs, self._cpus, {})
            return
        # All latencies are measured on one node, the largest, because they are compared.
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
        except errors.RayError as error:  # the worker or its node was lost MAX_RETRIES + 1 times
            reason = str(error).strip().splitlines()[0]
            return fail_job(job, ExitCode.INCONCLUSIVE, f"Ray lost the job {MAX_RETRIES + 1} times: {reason}")

    def _cancel(self, running: list[Any]) -> None:
        """Interrupt jobs, and wait for an orderly end of their processes."""
        for reference in running:
            self._ray.cancel(reference)
        if running:
            self._ray.wait(running, num_returns=len(running), timeout=_CANCEL_SECONDS)

    def _on(self, node: dict[str, Any]) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _run(job: dict[str, Any], cpus: int) -> dict[str, Any]:
    """Run a job in a task."""
    # Ray cancels by SIGINT, which a worker ignores if a shell started the driver in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run_job(Job.model_validate(job), cpus).model_dump(mode="json")


def _sees(folder: str) -> bool:
    return Path(folder).is_dir()
