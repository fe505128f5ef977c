# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: the routes of the Open Inference Protocol v2 around one model and its batcher.

It is the same under uvicorn (:mod:`sparse_deploy.serving.server`) and inside Ray Serve.
"""

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from sparse_deploy import __version__
from sparse_deploy.serving.batching import Batcher
from sparse_deploy.serving.inference_protocol import (
    EXTENSIONS,
    HEADER_LENGTH,
    InferRequest,
    RequestError,
    build_response,
    parse_request,
)
from sparse_deploy.serving.logs import log
from sparse_deploy.serving.metrics import Metrics
from sparse_deploy.serving.model import VERSION, Prepared, ServedModel, open_model
from sparse_deploy.serving.openapi import document
from sparse_deploy.serving.settings import ServerSettings

# Tokenizing as many characters takes about 10 ms: more than that would keep other clients waiting, so a thread does it.
_INLINE_CHARACTERS = 20_000
# Only a request that takes longer than this is watched for a client that leaves; watching costs a task of its own.
_WATCH_AFTER_SECONDS = 0.05


class Service:
    """What the routes share: the model, its batcher, the counters, and whether new requests are welcome.

    Attributes:
        draining: readiness answers no.
        closing: connections end with their next answer.

    Args:
        settings: of the server.
        model: opened.
    """

    def __init__(self, settings: ServerSettings, model: ServedModel) -> None:
        self.settings, self.model = settings, model
        self.metrics = Metrics(model.name, model.choice.cell, lambda: self.batcher.waiting)
        self.batcher = Batcher(
            model.session.run,
            pad_id=model.pad_id,
            max_batch=settings.max_batch,
            max_delay=settings.max_delay_ms / 1000,
            max_padding=settings.max_padding,
            capacity=settings.queue,
            observer=self.metrics,
        )
        self.draining = self.closing = False

    def abandon(self) -> None:
        """Drop what waits: somebody is in a hurry."""
        self.batcher.drop()

    def close(self) -> None:
        """Answer what waits, then free the model."""
        self.batcher.close()
        self.model.session.close()

    async def infer(self, request: InferRequest, started: float) -> tuple[bytes, dict[str, str]]:
        """Answer one checked request.

        Args:
            request: of the client.
            started: when its first byte was seen, on the clock of ``time.monotonic``.

        Raises:
            RequestError: with the status that the client gets.
        """
        timeout_ms = min(self.settings.timeout_ms, request.timeout_ms or self.settings.timeout_ms)
        begin = time.monotonic()
        prepared = await self._prepare(request)
        self.metrics.tokenized(time.monotonic() - begin)
        outputs = await self.batcher.answer(prepared.features, started + timeout_ms / 1000)
        if not all(np.isfinite(values).all() for row in outputs for values in row):
            raise RequestError("the model answered with NaN or infinity", 500)
        return build_response(request, self.model.name, VERSION, prepared.answer(outputs))

    async def _prepare(self, request: InferRequest) -> Prepared:
        characters = sum(
            len(text) for tensor in request.inputs.values() if isinstance(tensor.values, list) for text in tensor.values
        )
        if characters <= _INLINE_CHARACTERS:
            return self.model.prepare(request)
        return await run_in_threadpool(self.model.prepare, request)


def create_app(settings: ServerSettings, service: Service | None = None) -> Starlette:
    """The application of one deployment.

    Args:
        settings: of the server.
        service: opened before; when None, the model is opened as the application starts up.

    Returns:
        An ASGI application. ``app.state.service`` is there once it has started; setting ``draining`` on it makes
        readiness answer no.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # On this thread: nothing can be answered before it is done, and Ray's actors load where they run.
        app.state.service = service or Service(settings, open_model(settings))
        try:
            yield
        finally:
            await run_in_threadpool(app.state.service.close)

    model = "/v2/models/{model}"
    versioned = model + "/versions/{version}"
    routes = [  # tried in this order
        *(Route(f"{path}/infer", _InferEndpoint, methods=["POST"]) for path in (model, versioned)),
        Route("/v2", _server_metadata),
        Route("/v2/health/live", _live),
        Route("/v2/health/ready", _ready),
        *(Route(path, _model_metadata) for path in (model, versioned)),
        *(Route(f"{path}/ready", _model_ready) for path in (model, versioned)),
        Route("/metrics", _metrics),
        Route("/openapi.json", _openapi),
    ]
    handlers: Mapping[Any, Any] = {HTTPException: _http_error, RequestError: _request_error, Exception: _bug}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


class _InferEndpoint:
    """``POST …/infer``, straight on ASGI: the part of the server that every request pays for."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send

    def __await__(self) -> Any:
        return self._respond().__await__()

    async def _respond(self) -> None:
        started = time.monotonic()
        service: Service = self._scope["app"].state.service
        service.metrics.opened(1)
        status, retry_after, request = 200, None, None
        try:
            request, body, headers = await self._answer(service, started)
        except RequestError as error:
            status, retry_after = error.status, error.retry_after
            body, headers = orjson.dumps({"error": error.message}), {"content-type": "application/json"}
        except _ClientLeftError:
            service.metrics.abandoned()
            return
        finally:
            service.metrics.opened(-1)
        seconds = time.monotonic() - started
        service.metrics.request(status, seconds)
        if service.settings.access_log or status >= 500:
            message = orjson.loads(body).get("error") if status != 200 else None
            log("request", id=request and request.id, status=status, ms=round(seconds * 1000, 2), error=message)
        # A client that was too slow goes on sending; one whose body was refused may finish it, unread, within the time
        # that a connection has for its next headers.
        close = service.closing or status == 408
        await _send(self._send, status, body, headers, retry_after=retry_after, close=close)

    async def _answer(self, service: Service, started: float) -> tuple[InferRequest, bytes, dict[str, str]]:
        headers = dict(self._scope["headers"])
        _authorize(service, headers)
        _check_model(service, self._scope["path_params"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RequestError("expected an uncompressed body; send it without content-encoding", 415)
        length = headers.get(HEADER_LENGTH.encode())
        body = await self._body(service.settings, headers)
        request = parse_request(body, length.decode("latin-1") if length is not None else None)
        work = asyncio.ensure_future(service.infer(request, started))
        try:
            done, _ = await asyncio.wait({work}, timeout=_WATCH_AFTER_SECONDS)
            if not done:
                await self._watch(work)
            answer, answer_headers = work.result()
        finally:
            work.cancel()
        return request, answer, answer_headers

    async def _body(self, settings: ServerSettings, headers: Mapping[bytes, bytes]) -> bytes:
        """The whole body, counted while it comes in; a length that is told is only believed to refuse."""
        limit = settings.max_body_bytes
        told = headers.get(b"content-length", b"0")
        if told.isdigit() and int(told) > limit:
            raise RequestError(f"the body may have {limit} bytes, this one has {int(told)}", 413)
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
                        raise RequestError(f"the body may have {limit} bytes, this one has more", 413)
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError as error:
            raise RequestError(f"the body did not come within {settings.body_timeout_ms} ms", 408) from error

    async def _watch(self, work: "asyncio.Future[Any]") -> None:
        """Wait for the answer or for the client to leave, whichever is first."""
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
    """The client closed the connection; there is nobody to answer."""


async def _server_metadata(request: Request) -> Response:
    service = _service(request)
    _authorize_request(service, request)
    return _json({"name": "sparse-deploy", "version": __version__, "extensions": list(EXTENSIONS)})


async def _live(request: Request) -> Response:
    return _json({"live": True})


async def _ready(request: Request) -> Response:
    ready = not _service(request).draining
    return _json({"ready": ready}, 200 if ready else 503)


async def _model_metadata(request: Request) -> Response:
    service = _service(request)
    _authorize_request(service, request)
    _check_model(service, request.path_params)
    return _json(service.model.metadata())


async def _model_ready(request: Request) -> Response:
    service = _service(request)
    _check_model(service, request.path_params)
    ready = not service.draining
    return _json({"name": service.model.name, "ready": ready}, 200 if ready else 503)


async def _metrics(request: Request) -> Response:
    text, content_type = await run_in_threadpool(_service(request).metrics.text)
    return Response(text, headers={"content-type": content_type})


async def _openapi(request: Request) -> Response:
    service = _service(request)
    return _json(document(service.model, token=service.settings.token is not None))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    reasons = {404: f"no such path: {request.url.path[:200]}", 405: f"{request.method} is not allowed here"}
    return _json({"error": reasons.get(error.status_code, error.detail)}, error.status_code, dict(error.headers or {}))


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 - what it is registered for
    return _json({"error": error.message}, error.status)


async def _bug(request: Request, error: Exception) -> Response:
    return _json({"error": "this is a bug in the server; its log has the trace"}, 500)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _authorize_request(service: Service, request: Request) -> None:
    _authorize(service, dict(request.scope["headers"]))


def _authorize(service: Service, headers: Mapping[bytes, bytes]) -> None:
    token = service.settings.token
    if token is None:
        return
    expected = f"Bearer {token.get_secret_value()}".encode()
    if not hmac.compare_digest(headers.get(b"authorization", b""), expected):
        raise RequestError("expected header Authorization: Bearer with the server's token", 401)


def _check_model(service: Service, path: Mapping[str, str]) -> None:
    if path["model"] != service.model.name:
        raise RequestError(f"expected model {service.model.name}, got {path['model']!r:.140}", 404)
    if path.get("version", VERSION) != VERSION:
        raise RequestError(f"expected version {VERSION}, got {path['version']!r:.40}", 404)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


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
