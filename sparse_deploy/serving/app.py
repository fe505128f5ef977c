# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: the routes of the Open Inference Protocol v2 around one model and its batcher.

It is used by uvicorn (:mod:`sparse_deploy.serving.server`) and by Ray Serve.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sparse_deploy import __version__
from sparse_deploy.serving.embeddings_endpoint import EmbeddingsEndpoint, models
from sparse_deploy.serving.infer_endpoint import InferEndpoint
from sparse_deploy.serving.inference_protocol import EXTENSIONS, RequestError
from sparse_deploy.serving.model import open_model
from sparse_deploy.serving.openapi import document
from sparse_deploy.serving.rerank_endpoint import RerankEndpoint
from sparse_deploy.serving.service import Service
from sparse_deploy.serving.settings import ServerSettings


def create_app(settings: ServerSettings, service: Service | None = None) -> Starlette:
    """The application of one deployment.

    Args:
        settings: settings of the server.
        service: an opened service; None means that the application opens the model at its start.

    Returns:
        An ASGI application. ``app.state.service`` exists after its start; setting ``draining`` on it makes readiness
        false.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # In this thread, because no request can be answered before the model is open.
        app.state.service = service or Service(settings, open_model(settings))
        try:
            yield
        finally:
            await run_in_threadpool(app.state.service.close)

    model = "/v2/models/{model}"
    versioned = model + "/versions/{version}"
    routes = [  # matched in this order
        *(Route(f"{path}/infer", InferEndpoint, methods=["POST"]) for path in (model, versioned)),
        Route("/v1/embeddings", EmbeddingsEndpoint, methods=["POST"]),
        Route("/v1/models", _openai_models),
        Route("/rerank", RerankEndpoint, methods=["POST"]),
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


async def _server_metadata(request: Request) -> Response:
    service = _service(request)
    service.authorize(dict(request.scope["headers"]))
    return _json({"name": "sparse-deploy", "version": __version__, "extensions": list(EXTENSIONS)})


async def _openai_models(request: Request) -> Response:
    service = _service(request)
    service.authorize(dict(request.scope["headers"]))
    return _json(models(service))


async def _live(request: Request) -> Response:
    live = _service(request).live
    return _json({"live": live}, 200 if live else 503)


async def _ready(request: Request) -> Response:
    ready = _service(request).ready
    return _json({"ready": ready}, 200 if ready else 503)


async def _model_metadata(request: Request) -> Response:
    service = _service(request)
    service.authorize(dict(request.scope["headers"]))
    service.check_path(request.path_params)
    return _json(service.model.metadata())


async def _model_ready(request: Request) -> Response:
    service = _service(request)
    service.check_path(request.path_params)
    ready = service.ready
    return _json({"name": service.model.name, "ready": ready}, 200 if ready else 503)


async def _metrics(request: Request) -> Response:
    text, content_type = await run_in_threadpool(_service(request).metrics.text)
    return Response(text, headers={"content-type": content_type})


async def _openapi(request: Request) -> Response:
    service = _service(request)
    return _json(document(service.model, token=service.settings.token is not None))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler is registered for it
    reasons = {404: f"no such path: {request.url.path[:200]}", 405: f"{request.method} is not allowed here"}
    return _json({"error": reasons.get(error.status_code, error.detail)}, error.status_code, dict(error.headers or {}))


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 - the handler is registered for it
    return _json({"error": error.message}, error.status)


async def _bug(request: Request, error: Exception) -> Response:
    return _json({"error": "this is a bug in the server; its log has the trace"}, 500)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
