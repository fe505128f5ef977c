# SPDX-License-Identifier: Apache-2.0
"""Metrics of a server for Prometheus."""

import os
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

STAGES = ("tokenize", "queue", "compute", "total")
_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75)


class Metrics:
    """The counters of one server.

    Args:
        model: value of the label ``model``.
        runtime: runtime and precision, such as ``sparse-int8``; shown as ``sparse_deploy_model_info`` with the process
            id, which distinguishes replicas with one address.
        waiting: function that returns the number of queued sequences.
    """

    def __init__(self, model: str, runtime: str, waiting: Callable[[], int]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # an unused time stamp per series
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        name = "sparse_deploy"
        info = Gauge(
            f"{name}_model_info",
            "The model, its runtime and the process id.",
            ["model", "runtime", "pid"],
            registry=registry,
        )
        info.labels(model, runtime, os.getpid()).set(1)
        self._requests = Counter(f"{name}_requests", "Answered infer requests.", ["model", "code"], registry=registry)
        self._model = model
        seconds = Histogram(
            f"{name}_request_seconds",
            "Time of a request by stage; compute is that of its batches.",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {stage: seconds.labels(model, stage) for stage in STAGES}
        rows = Histogram(f"{name}_batch_rows", "Sequences per batch.", ["model"], buckets=_ROWS, registry=registry)
        padding = Histogram(
            f"{name}_batch_padding", "Share of padding in a batch.", ["model"], buckets=_SHARES, registry=registry
        )
        self._rows, self._padding = rows.labels(model), padding.labels(model)
        self._tokens = Counter(
            f"{name}_tokens", "Computed tokens without padding.", ["model"], registry=registry
        ).labels(model)
        Gauge(f"{name}_queue_rows", "Queued sequences.", ["model"], registry=registry).labels(model).set_function(
            waiting
        )
        self._open = Gauge(
            f"{name}_requests_open",
            "Requests that were received and have no response yet.",
            ["model"],
            registry=registry,
        ).labels(model)
        self._abandoned = Counter(
            f"{name}_requests_abandoned",
            "Clients that disconnected before their response.",
            ["model"],
            registry=registry,
        ).labels(model)
        self._codes: dict[int, Counter] = {}

    def request(self, code: int, seconds: float) -> None:
        """A request was answered with this HTTP status."""
        if code not in self._codes:
            self._codes[code] = self._requests.labels(self._model, str(code))
        self._codes[code].inc()
        self._stages["total"].observe(seconds)

    def opened(self, change: int) -> None:
        """Requests were received (1) or ended (-1)."""
        self._open.inc(change)

    def abandoned(self) -> None:
        """A client disconnected before its response."""
        self._abandoned.inc()

    def tokenized(self, seconds: float) -> None:
        """A request's text was tokenized."""
        self._stages["tokenize"].observe(seconds)

    def waited(self, seconds: float) -> None:
        """See :class:`sparse_deploy.serving.batching.BatchObserver`."""
        self._stages["queue"].observe(seconds)

    def batch(self, rows: int, tokens: int, padded: int, seconds: float) -> None:
        """See :class:`sparse_deploy.serving.batching.BatchObserver`."""
        self._rows.observe(rows)
        self._padding.observe(1 - tokens / padded)
        self._tokens.inc(tokens)
        self._stages["compute"].observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """The page, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
