# SPDX-License-Identifier: Apache-2.0
"""The common state of a server's routes: model, batcher, counters."""

import asyncio
import hmac
import time
from collections.abc import Mapping

import anyio
import numpy as np

from sparse_deploy.machine import return_freed_memory
from sparse_deploy.serving.batching import Batcher
from sparse_deploy.serving.body_bytes import BodyBytes
from sparse_deploy.serving.inference_protocol import InferRequest, RequestError, RequestLimits, Tensor
from sparse_deploy.serving.metrics import Metrics
from sparse_deploy.serving.model import VERSION, Prepared, ServedModel
from sparse_deploy.serving.settings import ServerSettings

# Tokenizing this many characters blocks the event loop for up to 15 ms (docs/reliability.md). Longer texts are
# tokenized in a thread, one at a time, so that the memory is that of one request.
_INLINE_CHARACTERS = 5_000
# Limit of all bodies in memory, as a number of largest bodies.
_BODIES = 16
# A batch that runs longer than this multiple of a request's time limit will not end: liveness becomes false, and the
# orchestrator starts another server. Readiness becomes false after the time limit.
_HANGING = 6
_JOIN_SECONDS = 0.05


class Service:
    """The common state of the routes: model, batcher, counters, and whether new requests are accepted.

    Attributes:
        draining: readiness is false.
        closing: connections end with their next response.

    Args:
        settings: settings of the server.
        model: the opened model.
    """

    def __init__(self, settings: ServerSettings, model: ServedModel) -> None:
        self.settings, self.model = settings, model
        self.metrics = Metrics(model.name, model.choice.cell, lambda: self.batcher.waiting)
        self.batcher = Batcher(
            model.session.run,
            pad_id=model.pad_id,
            per_token=model.task.per_token,
            padded_length=model.padded_length,
            # If a batch would change results, sequences are computed one at a time.
            max_batch=settings.max_batch if model.choice.batch_invariant else 1,
            max_delay=settings.max_delay_ms / 1000,
            overhead=model.batch_overhead,
            capacity=settings.queue,
            observer=self.metrics,
        )
        self.draining = self.closing = False
        self.limits = RequestLimits(model.max_rows, model.max_tokens, settings.max_characters)
        self.body_bytes = BodyBytes(_BODIES * settings.max_body_bytes)
        self._tokenizer_turn = anyio.CapacityLimiter(1)
        self._patience = float(settings.shutdown_seconds)

    @property
    def live(self) -> bool:
        """Whether batches are computed: the thread runs, and the running batch does not hang."""
        return self.batcher.busy_seconds < _HANGING * self.settings.timeout_ms / 1000

    @property
    def ready(self) -> bool:
        """Whether a new request can be answered in time."""
        return not self.draining and self.batcher.busy_seconds < self.settings.timeout_ms / 1000

    def abandon(self) -> None:
        """Drop queued sequences, and do not wait for the running batch, for an immediate shutdown."""
        self._patience = 0.0
        self.batcher.drop()

    def close(self) -> bool:
        """Compute queued sequences, then free the model.

        Returns:
            False if a batch still runs; its thread ends with the process.
        """
        self.batcher.close(0)
        begin = time.monotonic()
        while not (ended := self.batcher.close(_JOIN_SECONDS)) and time.monotonic() - begin < self._patience:
            pass  # stop_now() may be called by another thread
        if ended:
            self.model.session.close()
        self._patience = 0.0
        return ended

    async def answer(self, request: InferRequest, started: float) -> tuple[list[Tensor], int]:
        """Answer one checked request.

        Args:
            request: the client's request.
            started: time of its first byte, on ``time.monotonic``'s clock.

        Returns:
            The tensors of the response, and the number of input tokens.

        Raises:
            RequestError: the error response.
        """
        deadline = started + min(self.settings.timeout_ms, request.timeout_ms or self.settings.timeout_ms) / 1000
        begin = time.monotonic()
        prepared = await self._prepare(request, deadline)
        self.metrics.tokenized(time.monotonic() - begin)
        outputs = await self.batcher.answer(prepared.features, deadline)
        if not all(np.isfinite(values).all() for row in outputs for values in row):
            raise RequestError("the model returned NaN or infinity", 500)
        return prepared.answer(outputs), sum(len(feature["input_ids"]) for feature in prepared.features)

    async def _prepare(self, request: InferRequest, deadline: float) -> Prepared:
        characters = sum(
            len(text) for tensor in request.inputs.values() if isinstance(tensor.values, list) for text in tensor.values
        )
        if characters > self.limits.characters:  # a query counts once per document
            raise RequestError(
                f"the texts of one request may have {self.limits.characters} characters; got {characters}", 413
            )
        if characters <= _INLINE_CHARACTERS:
            return self.model.prepare(request)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await anyio.to_thread.run_sync(self._prepare_large, request, limiter=self._tokenizer_turn)
        except TimeoutError as error:
            raise RequestError("the time limit of the request is over", 504) from error

    def _prepare_large(self, request: InferRequest) -> Prepared:
        """Tokenize in a thread; return the tokenizer's memory (docs/reliability.md) to the system."""
        try:
            return self.model.prepare(request)
        finally:
            return_freed_memory()

    def authorize(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a request without the token.

        Raises:
            RequestError: 401.
        """
        token = self.settings.token
        if token is None:
            return
        scheme, _, found = headers.get(b"authorization", b"").partition(b" ")  # RFC 9110: the scheme in any case
        right = hmac.compare_digest(found.strip(), token.get_secret_value().encode())
        if scheme.lower() != b"bearer" or not right:
            raise RequestError("expected header Authorization: Bearer with the server's token", 401)

    def check_path(self, path: Mapping[str, str]) -> None:
        """Refuse a request for another model or version.

        Raises:
            RequestError: 404.
        """
        if path["model"] != self.model.name:
            raise RequestError(f"expected model {self.model.name}, got {path['model']!r:.140}", 404)
        if path.get("version", VERSION) != VERSION:
            raise RequestError(f"expected version {VERSION}, got {path['version']!r:.40}", 404)
