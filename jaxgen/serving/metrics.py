"""Prometheus metrics: answers of the service, and what the engines count."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from jaxgen.serving.models import Models

# Fields of an engine's `Counters`, by the names of the metrics.
_GAUGES = {
    "slots": ("slots", "Slots for texts."),
    "slots_active": ("active", "Texts in slots."),
    "waiting": ("waiting", "Requests that wait for a slot, or texts for a batch."),
    "tokens_ahead": ("tokens_ahead", "Tokens that accepted requests may still need, at most."),
    "tokens_per_second": ("tokens_per_second", "Read and generated, of the last seconds."),
}
_COUNTERS = {
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts."),
    "generated_tokens": ("generated_tokens", "Tokens generated."),
    "dispatches": ("dispatches", "Programs run."),
    "slot_steps": (
        "slot_steps",
        "Slots times steps; generated tokens over these are the occupancy of the batch.",
    ),
    "batches": ("batches", "Batches of texts run."),
    "texts_answered": ("answered", "Texts classified or translated."),
}
_HISTOGRAMS = {
    "queue_seconds": ("queue_seconds", "From a request to a slot."),
    "time_to_first_token_seconds": ("first_token_seconds", "From a request to its first token."),
    "time_per_token_seconds": ("token_seconds", "Of each further token."),
    "dispatch_seconds": ("dispatch_seconds", "Of one dispatch of a program."),
}


class Metrics:
    """Of one application, apart from those of any other in the process."""

    def __init__(self, models: Models):
        """Begin at zero."""
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(models))
        self.requests = Counter(
            "jaxgen_requests",
            "Requests by path and status.",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "jaxgen_requests_in_flight", "Requests that are being answered.", registry=self.registry
        )

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)


class EngineCollector:
    """Figures of the engines, read when Prometheus asks."""

    def __init__(self, models: Models):
        """Read the engines of these models."""
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        counts = {served.name: _counts(served.engine) for served in self._models if served.engine}
        for families, kind in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
            for name, (attribute, about) in families.items():
                family = kind(f"jaxgen_{name}", about, labels=["model"])
                for model, found in counts.items():
                    if hasattr(found, attribute):
                        family.add_metric([model], getattr(found, attribute))
                yield family
        for name, (attribute, about) in _HISTOGRAMS.items():
            times = HistogramMetricFamily(f"jaxgen_{name}", about, labels=["model"])
            for model, found in counts.items():
                if (values := getattr(found, attribute, None)) is not None:
                    times.add_metric([model], _buckets(values), values.total)
            yield times
        yield _texts(counts)


def _counts(engine: Any) -> Any:
    """What an engine counts; a gatherer of batches counts in its own attributes."""
    return engine.metrics() if hasattr(engine, "metrics") else engine


def _buckets(values: Any) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound."""
    bounds = [*map(str, values.bounds), "+Inf"]
    return list(zip(bounds, accumulate(values.counts), strict=True))


def _texts(counts: dict[str, Any]) -> Metric:
    """Texts by how they ended."""
    about = "Texts generated, by how they ended, and those that were not accepted."
    family = CounterMetricFamily("jaxgen_texts", about, labels=["model", "outcome"])
    for model, found in counts.items():
        for outcome, count in getattr(found, "requests", {}).items():
            family.add_metric([model, outcome], count)
    return family
