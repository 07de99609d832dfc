"""What Prometheus reads at /metrics: requests, errors, seconds, batches, queues."""

from __future__ import annotations

from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from align_train.serving.batching import Batcher
from align_train.serving.service import Service

# Up to the default `answer_seconds`, when a request is given up.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self, service: Service) -> None:
        """Registers the figures.

        Args:
            service: Its batches are counted from now on.
        """
        # The library's own registry takes a name once: another server here would fail.
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "align_requests", "Requests", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "align_request_seconds",
            "Seconds from a request's first byte to the last of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        of = ["model", "tower"]
        self._items = Histogram(
            "align_batch_items", "Items of a pass", of, buckets=_ITEMS, registry=self._registry
        )
        self._passes = Histogram(
            "align_batch_seconds",
            "Seconds of a pass",
            of,
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._waiting = Gauge(
            "align_waiting_items", "Items that no pass has taken yet", of, registry=self._registry
        )
        self._failed = Gauge(
            "align_failed_items", "Items that got an error", of, registry=self._registry
        )
        for name, served in service.served.items():
            self._watch(served.images, name, "images")
            if served.texts is not None:
                self._watch(served.texts, name, "texts")

    def _watch(self, batcher: Batcher[Any], model: str, tower: str) -> None:
        # Read when Prometheus asks: the batching thread need not count for it.
        self._waiting.labels(model, tower).set_function(lambda: batcher.waiting)
        self._failed.labels(model, tower).set_function(lambda: batcher.failed)
        batcher.observe = partial(
            _observe, self._items.labels(model, tower), self._passes.labels(model, tower)
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts an answer.

        Args:
            path: One of ours; a stranger's would grow the table.
            status: The HTTP status.
            seconds: That it took.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """The figures in Prometheus' format."""
        return generate_latest(self._registry)


def _observe(sizes: Histogram, passes: Histogram, items: int, seconds: float) -> None:
    sizes.observe(items)
    passes.observe(seconds)
