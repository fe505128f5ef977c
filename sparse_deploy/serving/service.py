# SPDX-License-Identifier: Apache-2.0
"""What the routes of a server share: one model, its batcher, its counters."""

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
# Bodies that may be here at a time, as the number of largest ones.
_BODIES = 16
# A batch that runs so many times longer than a request may take will not end: liveness says so, and the orchestrator
# starts another server. Readiness says so after once the time.
_HANGING = 6
_JOIN_SECONDS = 0.05


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
            per_token=model.task.per_token,
            padded_length=model.padded_length,
            # Where a batch changes answers, none is made: each client gets what it would get alone.
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
        """Whether batches are computed: their thread is there, and the running batch is not hanging."""
        return self.batcher.busy_seconds < _HANGING * self.settings.timeout_ms / 1000

    @property
    def ready(self) -> bool:
        """Whether a new request can be answered in time."""
        return not self.draining and self.batcher.busy_seconds < self.settings.timeout_ms / 1000

    def abandon(self) -> None:
        """Drop what waits, and don't wait for what runs: the time to end is over, or somebody is in a hurry."""
        self._patience = 0.0
        self.batcher.drop()

    def close(self) -> bool:
        """Answer what waits, then free the model.

        Returns:
            False where a batch still runs; its thread ends with the process.
        """
        self.batcher.close(0)
        begin = time.monotonic()
        while not (ended := self.batcher.close(_JOIN_SECONDS)) and time.monotonic() - begin < self._patience:
            pass  # another thread may have made the patience end
        if ended:
            self.model.session.close()
        self._patience = 0.0
        return ended

    async def answer(self, request: InferRequest, started: float) -> tuple[list[Tensor], int]:
        """Answer one checked request.

        Args:
            request: of the client.
            started: when its first byte was seen, on the clock of ``time.monotonic``.

        Returns:
            The tensors of the answer, and how many tokens were read.

        Raises:
            RequestError: with the status that the client gets.
        """
        deadline = started + min(self.settings.timeout_ms, request.timeout_ms or self.settings.timeout_ms) / 1000
        begin = time.monotonic()
        prepared = await self._prepare(request, deadline)
        self.metrics.tokenized(time.monotonic() - begin)
        outputs = await self.batcher.answer(prepared.features, deadline)
        if not all(np.isfinite(values).all() for row in outputs for values in row):
            raise RequestError("the model answered with NaN or infinity", 500)
        return prepared.answer(outputs), sum(len(feature["input_ids"]) for feature in prepared.features)

    async def _prepare(self, request: InferRequest, deadline: float) -> Prepared:
        characters = sum(
            len(text) for tensor in request.inputs.values() if isinstance(tensor.values, list) for text in tensor.values
        )
        if characters > self.limits.characters:  # a query counts once per document that it is read with
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
        """In a thread; what the tokenizer took, up to 170 MB, goes back to the system."""
        try:
            return self.model.prepare(request)
        finally:
            return_freed_memory()

    def authorize(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse who has not the token.

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
        """Refuse another model or version than the one here.

        Raises:
            RequestError: 404.
        """
        if path["model"] != self.model.name:
            raise RequestError(f"expected model {self.model.name}, got {path['model']!r:.140}", 404)
        if path.get("version", VERSION) != VERSION:
            raise RequestError(f"expected version {VERSION}, got {path['version']!r:.40}", 404)
