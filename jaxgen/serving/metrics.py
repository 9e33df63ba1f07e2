"""Prometheus metrics: requests, tokens, times, and what the engines are doing."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric

from jaxgen.serving.models import Models

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_TOKEN_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)


class Metrics:
    """Of one application, apart from those of any other in the process."""

    def __init__(self, models: Models):
        """Begin at zero."""
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(models))

        def add(kind: Any, name: str, about: str, *labels: str, **options: Any) -> Any:
            return kind(f"jaxgen_{name}", about, labels, registry=self.registry, **options)

        self.requests = add(
            Counter, "requests", "Requests by path and status.", "method", "path", "status"
        )
        self.in_flight = add(Gauge, "requests_in_flight", "Requests that are being answered.")
        self._read = add(Counter, "prompt_tokens", "Tokens of prompts.", "model")
        self._written = add(Counter, "generated_tokens", "Tokens generated.", "model")
        self._first = add(
            Histogram,
            "time_to_first_token_seconds",
            "From a request to its first tokens.",
            "model",
            buckets=_SECONDS,
        )
        self._each = add(
            Histogram,
            "time_per_token_seconds",
            "Between tokens of one text, after the first.",
            "model",
            buckets=_TOKEN_SECONDS,
        )

    def read(self, model: str, tokens: int) -> None:
        """Count tokens of prompts."""
        self._read.labels(model).inc(tokens)

    def timer(self, model: str) -> "Timer":
        """Take the times of one request from now on."""
        children = (self._first, self._each, self._written)
        return Timer(*(child.labels(model) for child in children), time.perf_counter(), {})

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)


@dataclass
class Timer:
    """When the tokens of one request came."""

    first: Any
    each: Any
    written: Any
    started: float
    last: dict[int, float]
    """When each text had its latest tokens."""

    def count(self, place: int, tokens: int) -> None:
        """Some more tokens of a text have come."""
        now = time.perf_counter()
        if tokens:
            if place in self.last:
                self.each.observe((now - self.last[place]) / tokens)
            elif not self.last:
                self.first.observe(now - self.started)
            self.last[place] = now
            self.written.inc(tokens)


class EngineCollector:
    """What the engines count, read when Prometheus asks."""

    def __init__(self, models: Models):
        """Read the engines of these models."""
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        return iter(())
