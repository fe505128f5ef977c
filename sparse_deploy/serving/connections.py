# SPDX-License-Identifier: Apache-2.0
"""Connections that can't be held open by saying little: uvicorn itself waits for a request line without end."""

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """uvicorn's connection with a time limit for the headers of a request.

    After an answer, uvicorn's own keep-alive timeout runs until the next byte; from that byte on this one does. It also
    ends what goes on sending a body that was refused.

    Attributes:
        header_seconds: the limit.
    """

    header_seconds: ClassVar[float] = 10.0
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Start the clock of a later request with its first byte."""
        if self._header_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._start_timer()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Stop the clock; the application limits the time of the body."""
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
