# SPDX-License-Identifier: Apache-2.0
"""Dynamic batching: requests put sequences into one bounded queue, and a thread computes batches of them.

The idle thread takes sequences from the queue: without a batching delay, a batch consists of sequences that arrived
while the last batch was computed (:mod:`sparse_deploy.serving.row_choice`).
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from sparse_deploy.data.batches import pad_batch
from sparse_deploy.data.encoded import Feature
from sparse_deploy.serving.inference_protocol import RequestError
from sparse_deploy.serving.logs import log
from sparse_deploy.serving.row_choice import choose_rows

Outputs = tuple[NDArray[Any], ...]
Run = Callable[[Mapping[str, NDArray[Any]]], Outputs]


class BatchObserver(Protocol):
    """An observer of batches, called by the computing thread."""

    def batch(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
        """A batch was computed: sequences, tokens in them, tokens with padding, time."""
        ...

    def waited(self, seconds: float) -> None:
        """A request's first sequence left the queue."""
        ...


@dataclass(eq=False)
class _Ticket:
    """A request in the queue: its future, and the outputs so far."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[Outputs]]"
    deadline: float
    entered: float
    outputs: list[Outputs | None]
    missing: int
    started: bool = False

    @property
    def dropped(self) -> bool:
        """Mark the request as cancelled: the client disconnected, or it failed."""
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
        per_token: for each output of the model, whether its second axis is the tokens.
        padded_length: function from the longest sequence's tokens to the padded tokens of a batch.
        max_batch: sequences per batch.
        max_delay: batching delay in seconds.
        overhead: overhead of a batch, see :func:`sparse_deploy.serving.row_choice.choose_rows`.
        capacity: largest number of queued sequences.
        observer: observer, called for each batch.
    """

    def __init__(
        self,
        run: Run,
        *,
        pad_id: int,
        per_token: Sequence[bool],
        padded_length: Callable[[int], int],
        max_batch: int,
        max_delay: float,
        overhead: float | None,
        capacity: int,
        observer: BatchObserver,
    ) -> None:
        self._run, self._pad_id, self._per_token = run, pad_id, tuple(per_token)
        self._padded_length = padded_length
        self._max_batch, self._max_delay, self._overhead = max_batch, max_delay, overhead
        self._capacity, self._observer = capacity, observer
        self._waiting: list[_Row] = []
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_per_row = 0.0
        self._running_since: float | None = None
        self._thread = threading.Thread(target=self._compute, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting)

    @property
    def busy_seconds(self) -> float:
        """Seconds since the start of the running batch; 0 without a batch, infinity without a computing thread."""
        if not self._thread.is_alive() and not self._closing:
            return math.inf
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    async def answer(self, features: Sequence[Feature], deadline: float) -> list[Outputs]:
        """Compute a request's sequences.

        Args:
            features: at least one unpadded feature.
            deadline: time on ``time.monotonic``'s clock; sequences that have not started by then are dropped.

        Returns:
            Per sequence the model's outputs, without padding. Cancelling the call drops its queued sequences.

        Raises:
            RequestError: 503, the queue is full or the server is shutting down; 504, too late; 500, the model failed.
        """
        loop = asyncio.get_running_loop()
        count = len(features)
        ticket = _Ticket(loop, loop.create_future(), deadline, time.monotonic(), [None] * count, count)
        rows = [_Row(ticket, index, feature) for index, feature in enumerate(features)]
        with self._changed:
            if self._closing:
                raise RequestError("the server is shutting down; use another server", 503, retry_after=1)
            if len(self._waiting) + count > self._capacity:
                wait = max(1, round(len(self._waiting) * self._seconds_per_row))
                raise RequestError(f"{len(self._waiting)} sequences are queued; retry", 503, wait)
            self._waiting += rows
            self._changed.notify()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await ticket.future
        except TimeoutError as error:
            raise RequestError("the time limit of the request is over", 504) from error

    def drop(self) -> None:
        """Refuse queued sequences."""
        with self._changed:
            rows, self._waiting = self._waiting, []
        self._refuse(rows, RequestError("the server is shutting down; use another server", 503, retry_after=1))

    def close(self, seconds: float | None = None) -> bool:
        """Compute queued sequences, then end the thread.

        Args:
            seconds: time to wait; None means without limit. A running batch can't be interrupted.

        Returns:
            Whether the thread ended.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _compute(self) -> None:
        while True:
            with self._changed:
                if not self._wait():
                    return
                batch = self._take()
            self._running_since = time.monotonic()
            self._answer_batch(batch)
            self._running_since = None

    def _wait(self) -> bool:
        """Wait until a batch is due; false if closing and no sequence is left. The lock must be held."""
        while True:
            self._drop_stale()
            if not self._waiting:
                if self._closing:
                    return False
                self._changed.wait()
                continue
            patience = self._waiting[0].ticket.entered + self._max_delay - time.monotonic()
            if patience <= 0 or self._closing or len(self._waiting) >= self._max_batch:
                return True
            self._changed.wait(patience)

    def _take(self) -> list[_Row]:
        """Take a batch from the queue; if the choice fails, only the oldest sequence. The lock must be held."""
        try:
            lengths = [self._padded_length(row.length) for row in self._waiting]
            chosen = choose_rows(lengths, self._max_batch, self._overhead)
        except Exception as error:
            _report(error)
            chosen = [0]
        batch = [self._waiting[index] for index in chosen]
        taken = set(chosen)
        self._waiting = [row for index, row in enumerate(self._waiting) if index not in taken]
        return batch

    def _drop_stale(self) -> None:
        now = time.monotonic()
        if any(row.ticket.dropped or row.ticket.deadline <= now for row in self._waiting):
            self._waiting = [row for row in self._waiting if not (row.ticket.dropped or row.ticket.deadline <= now)]

    def _answer_batch(self, batch: Sequence[_Row]) -> None:
        """Compute and deliver batches. The thread continues after an error, and each request gets a response."""
        start = time.monotonic()
        for row in batch:
            if not row.ticket.started:
                row.ticket.started = True
                self._tell(self._observer.waited, start - row.ticket.entered)
        try:
            tokens = self._padded_length(max(row.length for row in batch))
            padded = pad_batch([row.feature for row in batch], self._pad_id, tokens)
            outputs = self._run(padded)
            _check_outputs(outputs, padded["input_ids"].shape, self._per_token)
        except Exception as error:
            self._isolate(batch, error)
            return
        seconds = time.monotonic() - start
        self._seconds_per_row += 0.2 * (seconds / len(batch) - self._seconds_per_row)
        self._tell(
            self._observer.batch, len(batch), sum(row.length for row in batch), padded["input_ids"].size, seconds
        )
        try:
            _deliver(
                (
                    row,
                    tuple(
                        values[position][: row.length if each else None]
                        for values, each in zip(outputs, self._per_token, strict=True)
                    ),
                )
                for position, row in enumerate(batch)
            )
        except Exception as error:
            self._refuse(batch, RequestError(f"the answer could not be delivered: {error}", 500))

    def _isolate(self, batch: Sequence[_Row], error: Exception) -> None:
        """Compute the sequences of a failed batch separately, so that only the failing one gets an error."""
        if len(batch) > 1:
            for row in batch:
                self._answer_batch([row])
            return
        self._refuse(batch, RequestError(f"the model failed: {error}", 500))

    def _refuse(self, rows: Iterable[_Row], error: RequestError) -> None:
        for ticket in {id(row.ticket): row.ticket for row in rows}.values():
            _call(ticket.loop, _fail, ticket, error)

    def _tell(self, observer: Callable[..., None], *facts: float) -> None:
        try:
            observer(*facts)
        except Exception as error:
            _report(error)


def _check_outputs(outputs: Outputs, shape: tuple[int, ...], per_token: Sequence[bool]) -> None:
    """Refuse outputs that can't be distributed over the sequences.

    Raises:
        ValueError: an output does not have one row per sequence, or one value per token if required.
    """
    for values, each in zip(outputs, per_token, strict=True):
        wanted = shape if each else shape[:1]
        if values.shape[: len(wanted)] != wanted:
            raise ValueError(f"the output for a batch of {list(shape)} tokens has shape {list(values.shape)}")


def _report(error: Exception) -> None:
    log("batching failed", logging.ERROR, error=f"{type(error).__name__}: {error}")


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, so there is no waiting caller
        loop.call_soon_threadsafe(function, *arguments)


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
        _call(loop, _finish, tickets)


def _finish(tickets: Sequence[_Ticket]) -> None:
    for ticket in tickets:
        if not ticket.future.done():
            ticket.future.set_result([outputs for outputs in ticket.outputs if outputs is not None])


def _fail(ticket: _Ticket, error: RequestError) -> None:
    if not ticket.future.done():
        ticket.future.set_exception(error)
