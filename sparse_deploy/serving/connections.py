# SPDX-License-Identifier: Apache-2.0
"""Limits of connections: time for headers, memory, and pipelined requests.

uvicorn alone has no time limit for a request line, no size limit for headers, no limit of pipelined requests, and keeps
a response for ever if its client never reads it.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httptools
import orjson
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

# Headers, and other incomplete parts of a request except bodies. Browsers and proxies send at most 16 KiB.
MAX_HEADER_BYTES = 64 * 2**10
# Pipelined requests on one connection after the current one. HTTP allows a server to close after any response, and
# clients repeat requests without a response; few clients use pipelining.
MAX_PIPELINED = 16
# Answered for any number of connections: otherwise an orchestrator would end a busy server.
PROBES = frozenset({b"/v2/health/live", b"/v2/health/ready"})
# Number and duration of connections beyond the limit, for probes and refusals.
SPARE_CONNECTIONS = 64
_SPARE_SECONDS = 1.0
# Time for which a refused client may still send before its connection is closed. Closing at once would reset it, and
# the client would not receive the refusal.
_LINGER_SECONDS = 1.0
_TOO_LONG = f"expected headers of at most {MAX_HEADER_BYTES} bytes"
# Headers of a protocol upgrade, which is ignored; the request continues in HTTP/1.1 (RFC 9110, 7.8).
_UPGRADE_HEADERS = (b"upgrade", b"http2-settings", b"connection")


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of a connection.

    Attributes:
        connections: largest number of open connections; beyond it only probes are answered.
        header_seconds: time limit for the headers of a request.
        write_seconds: longest time in which a client reads nothing of its response.
        spare: connections beyond the limit without a request so far, oldest first.
    """

    connections: int
    header_seconds: float
    write_seconds: float
    spare: "dict[Connection, None]" = field(default_factory=dict)


class _RefusedError(Exception):
    """The headers exceed the limit."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits.

    After a response, uvicorn's keep-alive timeout runs until the next byte, and from then on the time limit for
    headers. The limit also ends a client that continues to send a refused body.

    Attributes:
        limits: limits of the server, set in a subclass.
    """

    limits: ClassVar[ConnectionLimits]
    _header_timer: asyncio.TimerHandle | None = None
    _answered: RequestResponseCycle | None = None
    _deaf = False
    _in_body = False
    _is_spare = False
    _advanced = False
    _idle_bytes = 0
    _header_bytes = 0
    _unread: tuple[int, float] = (0, 0.0)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first request."""
        super().connection_made(transport)
        self.limit_concurrency = None  # on_headers_complete applies the limit, except for probes
        self._is_spare = len(self.connections) > self.limits.connections
        if self._is_spare:
            self.limits.spare[self] = None
            if len(self.limits.spare) > SPARE_CONNECTIONS:
                next(iter(self.limits.spare)).transport.abort()
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Pass data to the parser, and stop at an invalid or too large request."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        if self._header_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._start_timer()
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        self._advanced = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _RefusedError):
                self._refuse(431, _TOO_LONG)
            elif isinstance(error.__context__, (httptools.HttpParserError, UnicodeError)):
                self._refuse(400, "expected a path such as /v2")
            else:
                raise
            return
        except httptools.HttpParserError:
            self._refuse(400, "expected an HTTP/1.1 request")
            return
        # Incomplete bytes outside of a body: a header without end, chunk extensions, trailers.
        self._idle_bytes = 0 if self._advanced else self._idle_bytes + len(data)
        if self._idle_bytes > MAX_HEADER_BYTES:
            self._refuse(431, _TOO_LONG)

    def on_message_begin(self) -> None:
        """Stop reading at the limit of pipelined requests."""
        if len(self.pipeline) >= MAX_PIPELINED:
            self._close_after(self.cycle)
            raise _RefusedError
        self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the time limit; the application limits the time of the body."""
        self._advanced = True
        self._stop_timer()
        self.limits.spare.pop(self, None)
        if self._upgrades:
            return
        probe = self.url.partition(b"?")[0] in PROBES
        over = self._is_spare and len(self.connections) > self.limits.connections and not probe
        self.app = _too_many_connections if over else self.config.loaded_app
        super().on_headers_complete()
        self._in_body = True
        if self._is_spare:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Pass it on."""
        self._advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Pass it on."""
        self._advanced, self._in_body = True, False
        if not self._upgrades:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue reading only when no request waits."""
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limit, and notify the current request; uvicorn would notify the newest."""
        self._stop_timer()
        self.limits.spare.pop(self, None)
        self.pipeline.clear()
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def end_if_unread(self, now: float) -> None:
        """Close a connection whose client has not read from its response for too long; called once a second."""
        size = self.transport.get_write_buffer_size()
        if size == 0 or size != self._unread[0]:
            self._unread = (size, now)
        elif now - self._unread[1] > self.limits.write_seconds:
            self.transport.abort()

    @property
    def _upgrades(self) -> bool:
        """Whether the client requests another protocol, which the server does not support."""
        wanted = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        return bool(wanted) and any(name == b"upgrade" for name, _ in self.headers)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            raise _RefusedError

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Parse the same request again without the headers of a protocol upgrade.

        The parser ends at an upgrade and leaves the body unread. Java's HttpClient requests h2c with every request.
        """
        if self.parser.get_method() == b"CONNECT":  # the following bytes are not HTTP
            self._close_after(self.cycle)
            return
        version = self.parser.get_http_version().encode()
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            if name not in _UPGRADE_HEADERS:
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"".join([*head, b"\r\n"]))
        if rest and not self._deaf:
            self._feed(rest)

    def _refuse(self, status: int, reason: str) -> None:
        """Respond to an invalid request; if an earlier one is still open, close after its response instead."""
        if self._deaf:
            return
        self._stop_timer()
        self._deaf = True
        if self._in_body and self.pipeline:
            self.pipeline.popleft()  # the newest request, whose body is incomplete
            self._close_after(self.pipeline[0][0] if self.pipeline else self._answered)
            return
        if self._in_body and not self.cycle.response_started:
            self.cycle.disconnected = True  # makes the application stop the request
            self.cycle.message_event.set()
        elif self.cycle is not None and not self.cycle.response_complete:
            self._close_after(self.cycle)
            return
        if not (self._in_body and self.cycle.response_started):
            body = orjson.dumps({"error": reason})
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _close_after(self, cycle: RequestResponseCycle | None) -> None:
        """Stop reading, and close with the response to a request."""
        self._deaf = True
        self._stop_timer()
        if cycle is not None:
            cycle.keep_alive = False

    def _start_timer(self) -> None:
        seconds = min(self.limits.header_seconds, _SPARE_SECONDS) if self._is_spare else self.limits.header_seconds
        self._header_timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def end_unread(connections: "set[Any]") -> None:
    """See :meth:`Connection.end_if_unread`."""
    now = time.monotonic()
    for connection in list(connections):
        with contextlib.suppress(RuntimeError):  # the loop was closed concurrently
            connection.end_if_unread(now)


async def _too_many_connections(scope: Scope, receive: Receive, send: Send) -> None:
    body = orjson.dumps({"error": "too many connections are open; retry later"})
    headers = {"content-type": "application/json", "content-length": str(len(body)), "retry-after": "1"}
    raw = [(name.encode(), value.encode()) for name, value in {**headers, "connection": "close"}.items()]
    await send({"type": "http.response.start", "status": 503, "headers": raw})
    await send({"type": "http.response.body", "body": body})
