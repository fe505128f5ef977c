# SPDX-License-Identifier: Apache-2.0
"""The application in Ray Serve: replicas of the server, each with its own model, batcher and CPUs.

On a cluster: ``serve run sparse_deploy.serving.ray_serve:build deployment=/shared/folder replicas=4 threads=8``.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.bounds import MAX_REPLICAS
from sparse_deploy.errors import ArtifactError, ConfigError, one_line
from sparse_deploy.machine import describe_machine
from sparse_deploy.ray_cluster import own_cpus, ray_cluster
from sparse_deploy.serving.app import create_app
from sparse_deploy.serving.logs import log, set_up
from sparse_deploy.serving.server import SWITCH_SECONDS, model_url, take_address
from sparse_deploy.serving.settings import ServerSettings

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.applications import Starlette

APPLICATION_NAME = "sparse-deploy"
_LENGTH_OF_A_REASON = 300
_CALL_SECONDS = 20.0
_QUIET = {"enable_access_log": False}  # the application has its own log
_LINGER_SECONDS = 1.0


class ReplicaSettings(ServerSettings):
    """Settings of a server in several replicas.

    Attributes:
        threads: CPUs that each replica reserves and uses; None means this machine's CPUs divided by the replicas.
        replicas: how many.
    """

    replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS)

    @property
    def cpus(self) -> int:
        """CPUs of a replica."""
        return self.threads or max(1, describe_machine().usable_cpus // self.replicas)


def build(settings: ReplicaSettings) -> "Application":
    """The application of one deployment, for ``serve run`` and ``serve deploy``.

    Host and port are those of the cluster's proxies; requests wait in the batcher of a replica, which refuses
    requests beyond its queue with 503 and Retry-After, as without Ray.
    """
    serve = _serve()
    own = settings.model_copy(update={"threads": settings.cpus})
    deployment = serve.deployment(
        serve.ingress(_app_builder(own))(Replica),
        name="server",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus},
        # The batcher needs queued requests for its batches, and limits the queue. Ray's default is 5.
        max_ongoing_requests=settings.queue + settings.max_batch,
        max_queued_requests=settings.queue,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
        logging_config=_QUIET,
    )
    application: Application = deployment.bind()
    return application


def serve_replicas(server: ServerSettings, replicas: int) -> None:
    """Serve a deployment on Ray until SIGTERM, SIGINT or SIGHUP.

    Args:
        server: settings of each replica, and the common host and port.
        replicas: how many.

    Raises:
        RuntimeUnavailableError: Ray is not installed or can't be reached.
        ConfigError: the address is not available, or Ray has too few CPUs for the replicas.
        ArtifactError: the deployment can't be opened.
    """
    set_up(server.log_format)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # Checked here, so that the command raises the error; a replica would only log it.
    manifest = load_manifest(server.deployment, "deployment")
    settings = ReplicaSettings.model_validate(
        {**dict(server), "replicas": replicas, "deployment": server.deployment.absolute(), "port": _free_port(server)}
    )
    if (cpus := own_cpus()) is not None:
        _check_cpus(settings, cpus)  # before Ray starts, which takes seconds
    with ray_cluster() as ray:
        serve = _serve()
        _check_cpus(settings, ray.cluster_resources().get("CPU", 0))
        serve.start(http_options={"host": settings.host, "port": settings.port}, logging_config=_QUIET)
        try:
            handle = _run(settings)
            ended = _noted_signal()
            url = model_url(settings.host, settings.port, settings.name or manifest.recipe["name"])
            log("serving", url=url, replicas=settings.replicas, threads=settings.cpus)
            ended.wait()
            _drain(handle, settings.drain_seconds)
        finally:
            serve.shutdown()
    log("stopped")


class Replica:
    """The methods that Ray calls on a replica, other than requests."""

    app: "Starlette"  # set by the wrapper that Ray makes around this class

    def drain(self, *, closing: bool = False) -> None:
        """Set readiness to false; when closing, also end connections with their next response."""
        self.app.state.service.draining = True
        self.app.state.service.closing = closing


def _run(settings: ReplicaSettings) -> Any:
    """Start the replicas; Ray retries each a few times."""
    try:
        return _serve().run(build(settings), name=APPLICATION_NAME)
    except RuntimeError as error:
        reason = one_line(error, _LENGTH_OF_A_REASON)
        raise ArtifactError(f"{settings.deployment}: no replica could be started: {reason}") from error


def _noted_signal() -> threading.Event:
    """An event that the first SIGTERM, SIGINT or SIGHUP sets; the second one interrupts."""
    ended = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, note)
    return ended


def _drain(handle: Any, seconds: float) -> None:
    """Turn readiness false for a time, then close connections with their next response, then close the port."""
    log("draining", seconds=seconds)
    _tell(handle)
    time.sleep(seconds)
    _tell(handle, closing=True)
    time.sleep(_LINGER_SECONDS)


def _tell(handle: Any, *, closing: bool = False) -> None:
    """Call all replicas; one that does not respond does not affect the others."""
    try:
        handle.broadcast("drain", closing=closing).results(timeout_s=_CALL_SECONDS)
    except TimeoutError:
        log("replicas silent", seconds=_CALL_SECONDS)


def _check_cpus(settings: ReplicaSettings, found: float) -> None:
    wanted = settings.cpus * settings.replicas
    if wanted > found:
        raise ConfigError(
            f"--replicas: {settings.replicas} with {settings.cpus} threads each need {wanted} CPUs, Ray has {found:g}; "
            f"use fewer replicas, or pass --threads"
        )


def _serve() -> Any:
    from ray import serve

    return serve


def _app_builder(settings: ReplicaSettings) -> Callable[[], "Starlette"]:
    def create() -> "Starlette":
        set_up(settings.log_format)
        sys.setswitchinterval(SWITCH_SECONDS)
        return create_app(settings)

    return create


def _free_port(settings: ServerSettings) -> int:
    """The port, or a free one for 0; Ray's proxy would report a port in use only in its log."""
    with take_address(settings.host, settings.port) as listener:
        return int(listener.getsockname()[1])
