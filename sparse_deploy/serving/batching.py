# SPDX-License-Identifier: Apache-2.0
"""Dynamic batching: sequences of many requests wait in one bounded queue, and a thread computes some of them together.

Who is idle takes from what waits: with no delay set, a batch is what came while the last one was computed, or a part of
it (:mod:`sparse_deploy.serving.row_choice`).
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from sparse_deploy.data.features import Feature, pad_batch
from sparse_deploy.serving.inference_protocol import RequestError
from sparse_deploy.serving.row_choice import choose_rows

Outputs = tuple[NDArray[Any], ...]
Run = Callable[[Mapping[str, NDArray[Any]]], Outputs]


class BatchObserver(Protocol):
    """Who is told of batches, from the computing thread."""

    def batch(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
        """A batch was computed: sequences, tokens in them, tokens with padding, time."""
        ...

    def waited(self, seconds: float) -> None:
        """A request's first sequence left the queue."""
        ...


@dataclass(eq=False)
class _Ticket:
    """A request in the queue: its future, and the outputs as they come in."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[Outputs]]"
    deadline: float
    entered: float
    outputs: list[Outputs | None]
    missing: int
    started: bool = False

    @property
    def dropped(self) -> bool:
        """Nobody waits for it any more: the client left, or it failed."""
        return self.future.done()


@dataclass(eq=False)
class _Row:
    """One sequence of a request."""

    ticket: _Ticket
    index: int
    feature: Feature
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = len(self.feature["input_ids"])


class Batcher:
    """The queue and its computing thread.

    Args:
        run: the model; called by one thread only.
        pad_id: the tokenizer's padding token.
        max_batch: sequences per batch.
        max_delay: seconds that the oldest sequence waits for company while the model is idle.
        overhead: of a batch, see :func:`sparse_deploy.serving.row_choice.choose_rows`.
        capacity: sequences that may wait.
        observer: is told of each batch.
    """

    def __init__(
        self,
        run: Run,
        *,
        pad_id: int,
        max_batch: int,
        max_delay: float,
        overhead: float | None,
        capacity: int,
        observer: BatchObserver,
    ) -> None:
        self._run, self._pad_id = run, pad_id
        self._max_batch, self._max_delay, self._overhead = max_batch, max_delay, overhead
        self._capacity, self._observer = capacity, observer
        self._waiting: list[_Row] = []
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_per_row = 0.0
        self._thread = threading.Thread(target=self._compute, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting)

    async def answer(self, features: Sequence[Feature], deadline: float) -> list[Outputs]:
        """Compute a request's sequences.

        Args:
            features: at least one, unpadded.
            deadline: on the clock of ``time.monotonic``; what has not started by then is dropped.

        Returns:
            Per sequence the model's outputs, without padding. Cancelling the call drops what still waits.

        Raises:
            RequestError: 503, the queue is full or the server is going; 504, too late; 500, the model failed.
        """
        loop = asyncio.get_running_loop()
        count = len(features)
        ticket = _Ticket(loop, loop.create_future(), deadline, time.monotonic(), [None] * count, count)
        rows = [_Row(ticket, index, feature) for index, feature in enumerate(features)]
        with self._changed:
            if self._closing:
                raise RequestError("the server is shutting down; send this to another one", 503, retry_after=1)
            if len(self._waiting) + count > self._capacity:
                wait = max(1, round(len(self._waiting) * self._seconds_per_row))
                raise RequestError(f"{len(self._waiting)} sequences are waiting already; come back", 503, wait)
            self._waiting += rows
            self._changed.notify()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await ticket.future
        except TimeoutError as error:
            raise RequestError("the answer took longer than the request allows", 504) from error

    def drop(self) -> None:
        """Forget what waits; its requests end with their deadline or their connection."""
        with self._changed:
            self._waiting = []

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _compute(self) -> None:
        while batch := self._next_batch():
            self._run_batch(batch)

    def _next_batch(self) -> list[_Row]:
        """Wait for sequences; empty when closing and none is left."""
        with self._changed:
            while True:
                self._drop_stale()
                if not self._waiting:
                    if self._closing:
                        return []
                    self._changed.wait()
                    continue
                patience = self._waiting[0].ticket.entered + self._max_delay - time.monotonic()
                if patience <= 0 or self._closing or len(self._waiting) >= self._max_batch:
                    break
                self._changed.wait(patience)
            chosen = choose_rows([row.length for row in self._waiting], self._max_batch, self._overhead)
            batch = [self._waiting[index] for index in chosen]
            taken = set(chosen)
            self._waiting = [row for index, row in enumerate(self._waiting) if index not in taken]
        return batch

    def _drop_stale(self) -> None:
        now = time.monotonic()
        if any(row.ticket.dropped or row.ticket.deadline <= now for row in self._waiting):
            self._waiting = [row for row in self._waiting if not (row.ticket.dropped or row.ticket.deadline <= now)]

    def _run_batch(self, batch: Sequence[_Row]) -> None:
        start = time.monotonic()
        for row in batch:
            if not row.ticket.started:
                row.ticket.started = True
                self._observer.waited(start - row.ticket.entered)
        padded = pad_batch([row.feature for row in batch], self._pad_id)
        try:
            outputs = self._run(padded)
        except Exception as error:  # whatever it is, the thread must live on and each request get its answer
            self._isolate(batch, error)
            return
        seconds = time.monotonic() - start
        self._seconds_per_row += 0.2 * (seconds / len(batch) - self._seconds_per_row)
        self._observer.batch(len(batch), sum(row.length for row in batch), padded["input_ids"].size, seconds)
        per_token = len(outputs) > 1
        _deliver(
            (row, tuple(values[position][: row.length if per_token else None] for values in outputs))
            for position, row in enumerate(batch)
        )

    def _isolate(self, batch: Sequence[_Row], error: Exception) -> None:
        """One sequence that the model can't compute must not fail its neighbours."""
        if len(batch) > 1:
            for row in batch:
                self._run_batch([row])
            return
        ticket = batch[0].ticket
        ticket.loop.call_soon_threadsafe(_fail, ticket, RequestError(f"the model failed: {error}", 500))


def _deliver(answered: Iterable[tuple[_Row, Outputs]]) -> None:
    """Wake each event loop once for all requests that are complete."""
    complete: dict[asyncio.AbstractEventLoop, list[_Ticket]] = {}
    for row, outputs in answered:
        ticket = row.ticket
        ticket.outputs[row.index] = outputs
        ticket.missing -= 1
        if not ticket.missing:
            complete.setdefault(ticket.loop, []).append(ticket)
    for loop, tickets in complete.items():
        loop.call_soon_threadsafe(_finish, tickets)


def _finish(tickets: Sequence[_Ticket]) -> None:
    for ticket in tickets:
        if not ticket.future.done():
            ticket.future.set_result([outputs for outputs in ticket.outputs if outputs is not None])


def _fail(ticket: _Ticket, error: RequestError) -> None:
    if not ticket.future.done():
        ticket.future.set_exception(error)
