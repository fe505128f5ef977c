# SPDX-License-Identifier: Apache-2.0
"""What the routes of a server share: one model, its batcher, its counters."""

import hmac
import time
from collections.abc import Mapping

import numpy as np
from starlette.concurrency import run_in_threadpool

from sparse_deploy.serving.batching import Batcher
from sparse_deploy.serving.inference_protocol import InferRequest, RequestError, build_response
from sparse_deploy.serving.metrics import Metrics
from sparse_deploy.serving.model import VERSION, Prepared, ServedModel
from sparse_deploy.serving.settings import ServerSettings

# Tokenizing as many characters takes about 10 ms: more than that would keep other clients waiting, so a thread does it.
_INLINE_CHARACTERS = 20_000


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
            overhead=model.batch_overhead,
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

    def authorize(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse who has not the token.

        Raises:
            RequestError: 401.
        """
        token = self.settings.token
        if token is None:
            return
        expected = f"Bearer {token.get_secret_value()}".encode()
        if not hmac.compare_digest(headers.get(b"authorization", b""), expected):
            raise RequestError("expected header Authorization: Bearer with the server's token", 401)

    def check_path(self, path: Mapping[str, str]) -> None:
        """Refuse another model or version than the one here.

        Raises:
            RequestError: 404.
        """
        if path["model"] != self.model.name:
            raise RequestError(f"expected model {self.model.name}, got {path['model']!r:.140}", 404)
        if path.get("version", VERSION) != VERSION:
            raise RequestError(f"expected version {VERSION}, got {path['version']!r:.40}", 404)
