# SPDX-License-Identifier: Apache-2.0
"""One server process: uvicorn with the application, and a shutdown that loses no accepted request."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn

from sparse_deploy.errors import ConfigError
from sparse_deploy.machine import describe_machine, thread_remark
from sparse_deploy.serving.app import create_app
from sparse_deploy.serving.connections import SPARE_CONNECTIONS, Connection, ConnectionLimits, end_unread
from sparse_deploy.serving.logs import log, set_up
from sparse_deploy.serving.model import open_model
from sparse_deploy.serving.service import Service
from sparse_deploy.serving.settings import ServerSettings

# The event loop and the computing thread share the interpreter: with the default switch interval of 5 ms, a finished
# batch may wait this long for a loop that parses requests.
SWITCH_SECONDS = 0.0005
_TICK_SECONDS = 0.05
# A client on a kept connection is informed of its end by the next response; longest pause before its next request.
_LINGER_SECONDS = 1.0
_TICKS_PER_SECOND = 10  # of uvicorn's main loop
_BACKLOG = 2048
# Open files, pipes and libraries, other than connections.
_OTHER_DESCRIPTORS = 128


def serve(settings: ServerSettings) -> None:
    """Serve a deployment until SIGTERM, SIGINT or SIGHUP; a second signal ends it at once.

    If a batch still runs at the end of the shutdown time, the process exits, because a model can't be interrupted.

    Raises:
        ConfigError: the address is not available.
        ArtifactError: the deployment can't be opened.
    """
    set_up(settings.log_format)
    sys.setswitchinterval(SWITCH_SECONDS)
    listener = take_address(settings.host, settings.port)
    with listener:
        model = open_model(settings)
        service = Service(settings, model)
        limits = ConnectionLimits(
            connections=_possible_connections(settings.max_connections),
            header_seconds=settings.header_timeout_ms / 1000,
            write_seconds=settings.write_timeout_ms / 1000,
        )
        connection = type("LimitedConnection", (Connection,), {"limits": limits})
        config = uvicorn.Config(
            create_app(settings, service),
            http=connection,
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=max(1, settings.header_timeout_ms // 1000),
            timeout_graceful_shutdown=settings.shutdown_seconds,
        )
        listen(listener, settings.host, settings.port)
        _DrainingServer(config, service).run(sockets=[listener])
        log("stopped")
        if not service.close():
            logging.shutdown()
            os._exit(0)


class _DrainingServer(uvicorn.Server):
    """uvicorn's server with a time between the signal and the closing of the listener, in which readiness is false.

    Load balancers need this time to route requests elsewhere. Responses close their connections only after the listener
    is closed: otherwise clients would reconnect at once, some of them just before the listener closes.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then log it, because a signal before this point would not cause an orderly shutdown."""
        await super().startup(sockets)
        (listener,) = sockets or []
        host, port = listener.getsockname()[:2]
        model = self._service.model
        log(
            "serving",
            url=model_url(host, port, model.name),
            runtime=model.choice.cell,
            threads=model.threads,
            batches=None if model.choice.batch_invariant else "of one sequence: dynamic INT8 depends on its batch",
            candidates={name: round(value, 3) for name, value in model.choice.milliseconds.items()} or None,
        )
        if remark := thread_remark(model.threads, describe_machine()):
            log("threads", logging.WARNING, reason=remark)
        for cell, reason in model.choice.refused.items():
            log("runtime skipped", logging.WARNING, runtime=cell, reason=reason)
        if warning := getattr(model.session, "warning", ""):
            log("slow runtime", logging.WARNING, runtime=model.choice.cell, reason=warning)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP like uvicorn's signals, so that the end of a terminal or session shuts the server down."""
        with super().capture_signals():
            before = signal.getsignal(signal.SIGHUP)
            if before is not signal.SIG_IGN:  # nohup
                signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    async def on_tick(self, counter: int) -> bool:
        """Once a second, close connections whose clients do not read."""
        if counter % _TICKS_PER_SECOND == 0:
            end_unread(self.server_state.connections)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Record the signal; the main loop checks it every tenth of a second."""
        self._signals += 1
        self.should_exit = True
        if self._signals > 1:
            self.force_exit = True

    async def main_loop(self) -> None:
        """Serve, then drain."""
        await super().main_loop()
        self._service.draining = True
        seconds = self._service.settings.drain_seconds
        log("draining", seconds=seconds, open=len(self.server_state.tasks))
        ticks = round(seconds / _TICK_SECONDS)
        while ticks > 0 and not self.force_exit:
            await asyncio.sleep(_TICK_SECONDS)
            ticks -= 1

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener, then read requests that have arrived: uvicorn alone would reset unread ones."""
        self._service.closing = True
        for listener in sockets or []:
            await self._take_all(listener)
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()  # with an open listener the kernel would accept connections that are never read
        if not self.force_exit:
            await asyncio.sleep(_LINGER_SECONDS)
        late = asyncio.create_task(self._end_late())
        await super().shutdown()  # cancels late requests; the endpoint responds with 503
        late.cancel()
        if self.force_exit:
            self._service.abandon()
            await self.lifespan.shutdown()

    async def _end_late(self) -> None:
        """After the time for accepted requests, do not wait for the running batch."""
        await asyncio.sleep(max(self._service.settings.shutdown_seconds - _TICK_SECONDS, 0))
        self._service.abandon()

    async def _take_all(self, listener: socket.socket) -> None:
        """Accept pending connections of the kernel: closing the listener would reset them."""
        loop = asyncio.get_running_loop()
        for _ in range(_BACKLOG):
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setblocking(False)
            await loop.connect_accepted_socket(self._new_connection, client)

    def _new_connection(self) -> asyncio.Protocol:
        state = self.lifespan.state
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=state
        )
        return made


def _possible_connections(wanted: int) -> int:
    """The number of connections for which this process may have descriptors, after raising the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_CONNECTIONS + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    possible = max(1, soft - SPARE_CONNECTIONS - _OTHER_DESCRIPTORS)
    log("fewer connections", logging.WARNING, wanted=wanted, connections=possible, descriptors=soft)
    return possible


def model_url(host: str, port: int, name: str) -> str:
    """The URL of a model, for the log."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v2/models/{name}"


def listen(listener: socket.socket, host: str, port: int) -> None:
    """Listen and serve.

    Raises:
        ConfigError: another server took the port at the same time.
    """
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _address_error(host, port, error) from error


def take_address(host: str, port: int) -> socket.socket:
    """A socket bound to the address, port 0 to a free port, so that a used port raises before the model is loaded.

    Raises:
        ConfigError: the address is not available.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise _address_error(host, port, error) from error
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def _address_error(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(f"can't listen on {host}:{port}: {error.strerror}; choose another --host or --port")
