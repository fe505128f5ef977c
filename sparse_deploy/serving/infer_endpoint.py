# SPDX-License-Identifier: Apache-2.0
"""``POST .../infer``, directly on ASGI, to keep the overhead of each request small."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.types import Message, Receive, Scope, Send

from sparse_deploy.serving.body_bytes import ByteShare
from sparse_deploy.serving.inference_protocol import (
    HEADER_LENGTH,
    InferRequest,
    RequestError,
    RequestLimits,
    Tensor,
    build_response,
    parse_request,
    whole_number,
)
from sparse_deploy.serving.logs import log
from sparse_deploy.serving.model import VERSION
from sparse_deploy.serving.service import Service
from sparse_deploy.serving.settings import ServerSettings

# Only longer requests are checked for a disconnected client, because the check costs an additional task.
_WATCH_AFTER_SECONDS = 0.05
_JSON = {"content-type": "application/json"}


class InferEndpoint:
    """One request: body, response, and line in the log."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send

    def __await__(self) -> Any:
        return self._respond().__await__()

    async def _respond(self) -> None:
        started = time.monotonic()
        service: Service = self._scope["app"].state.service
        service.metrics.opened(1)
        status, reason, retry_after, request = 200, None, None, None
        body_bytes = service.body_bytes.share()
        try:
            request, body, headers = await self._answer(service, started, body_bytes)
        except RequestError as error:
            status, reason, retry_after = error.status, error.message, error.retry_after
            body, headers = self.error(reason, status), dict(_JSON)
        except asyncio.CancelledError:  # the shutdown time is over; only this response follows
            status, reason, retry_after = 503, "the server is shutting down; use another server", 1
            body, headers = self.error(reason, status), dict(_JSON)
        except _ClientLeftError:
            service.metrics.abandoned()
            return
        finally:
            body_bytes.release()
            service.metrics.opened(-1)
        seconds = time.monotonic() - started
        service.metrics.request(status, seconds)
        if service.settings.access_log or status >= 500:
            log("request", id=request and request.id, status=status, ms=round(seconds * 1000, 2), error=reason)
        # A client that was too slow continues sending; a client whose body was refused may finish sending it, unread,
        # within the time limit of the connection's next headers.
        close = service.closing or status == 408
        await _send(self._send, status, body, headers, retry_after=retry_after, close=close)

    async def _answer(
        self, service: Service, started: float, body_bytes: ByteShare
    ) -> tuple[InferRequest, bytes, dict[str, str]]:
        headers = dict(self._scope["headers"])
        service.authorize(headers)
        self.check(service)
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RequestError("expected an uncompressed body; send it without content-encoding", 415)
        body = await self._body(service.settings, headers, body_bytes)
        request = self.parse(body, headers, service.limits)
        del body
        work = asyncio.ensure_future(service.answer(request, started))
        try:
            done, _ = await asyncio.wait({work}, timeout=_WATCH_AFTER_SECONDS)
            if not done:
                await self._watch(work)
            tensors, tokens = work.result()
        finally:
            work.cancel()
        return request, *self.write(service, request, tensors, tokens)

    def check(self, service: Service) -> None:
        """Refuse a path that this model does not support.

        Raises:
            RequestError: 404.
        """
        service.check_path(self._scope["path_params"])

    def parse(self, body: bytes, headers: Mapping[bytes, bytes], limits: RequestLimits) -> InferRequest:
        """Read the body.

        Raises:
            RequestError: 400, or 413 for more than the limits.
        """
        length = headers.get(HEADER_LENGTH.encode())
        return parse_request(body, length.decode("latin-1") if length is not None else None, limits)

    def write(
        self, service: Service, request: InferRequest, answer: Sequence[Tensor], tokens: int
    ) -> tuple[bytes, dict[str, str]]:
        """The body of the response, and its headers.

        Args:
            service: the service of the model.
            request: the request.
            answer: the output tensors.
            tokens: number of input tokens.

        Raises:
            RequestError: 400, a requested output does not exist.
        """
        return build_response(request, service.model.name, VERSION, answer)

    def error(self, reason: str, status: int) -> bytes:
        """The body of a refusal."""
        return orjson.dumps({"error": reason})

    async def _body(self, settings: ServerSettings, headers: Mapping[bytes, bytes], body_bytes: ByteShare) -> bytes:
        """The complete body, counted while it is read; the declared length is only used to refuse."""
        limit = settings.max_body_bytes
        declared = whole_number(headers.get(b"content-length", b"0").decode("latin-1"), limit)
        if declared is not None and declared > limit:
            raise RequestError(f"the body is larger than the limit of {limit} bytes", 413)
        parts, size = [], 0
        try:
            async with asyncio.timeout(settings.body_timeout_ms / 1000):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientLeftError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise RequestError(f"the body is larger than the limit of {limit} bytes", 413)
                    body_bytes.take(len(parts[-1]))
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError as error:
            raise RequestError(f"the body was not complete within {settings.body_timeout_ms} ms", 408) from error

    async def _watch(self, work: "asyncio.Future[Any]") -> None:
        """Wait for the result or for the client to disconnect."""
        gone = asyncio.ensure_future(self._left())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _ClientLeftError
        finally:
            gone.cancel()

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


class _ClientLeftError(Exception):
    """The client closed the connection; there is no response."""


async def _send(
    send: Send, status: int, body: bytes, headers: Mapping[str, str], *, retry_after: int | None, close: bool
) -> None:
    own = [(name.encode(), value.encode()) for name, value in headers.items()]
    own.append((b"content-length", str(len(body)).encode()))
    if retry_after is not None:
        own.append((b"retry-after", str(retry_after).encode()))
    if close:
        own.append((b"connection", b"close"))
    start: Message = {"type": "http.response.start", "status": status, "headers": own}
    await send(start)
    await send({"type": "http.response.body", "body": body})
