"""Prometheus metrics of one app, in its own registry. Times are in seconds, labels are bounded."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.batcher import BatchReport

Stage = Literal["read", "decode", "queue", "infer", "denoise", "encode", "total"]
Outcome = Literal["ok", "client_error", "rejected", "server_error", "cancelled"]

STAGES: tuple[Stage, ...] = ("read", "decode", "queue", "infer", "denoise", "encode", "total")
_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_TILES = (1, 4, 16, 64, 256, 1024, 4096)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ModelState(NamedTuple):
    """A served model at the moment of a scrape; ``waiting`` counts decoded pictures or tiles."""

    name: str
    version: str
    ready: bool
    waiting: int


class _Models(Collector):
    def __init__(self, states: Callable[[], Iterable[ModelState]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("skipvit_model_ready", "1 while the model answers", labels=["model", "version"])
        queue = GaugeMetricFamily(
            "skipvit_queue_images", "Decoded pictures or tiles waiting for an engine", labels=["model", "version"]
        )
        for state in self._states():
            ready.add_metric([state.name, state.version], float(state.ready))
            queue.add_metric([state.name, state.version], float(state.waiting))
        yield ready
        yield queue


class Metrics:
    """What a server counts. Children are looked up once per label set: ``labels()`` is too slow for every request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "skipvit_requests", "Requests by outcome", ["model", "version", "route", "outcome"], registry=self.registry
        )
        stages = Histogram(
            "skipvit_stage_seconds",
            "Time in each stage: read and total per request, queue and infer per picture or tile, others per picture",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._observe = {stage: stages.labels(stage).observe for stage in STAGES}
        self._batch_size = Histogram(
            "skipvit_batch_size",
            "Pictures or tiles per run of a model",
            ["model"],
            buckets=_SIZES,
            registry=self.registry,
        )
        self._batches = Counter(
            "skipvit_batches",
            "Runs of a model, by why the batch was closed: full, idle (took what was there), waited",
            ["model", "reason"],
            registry=self.registry,
        )
        self._tiles = Histogram(
            "skipvit_tiles", "Tiles per denoised picture", ["model"], buckets=_TILES, registry=self.registry
        )
        self._rejected = Counter(
            "skipvit_rejected", "Requests turned away, by error code", ["reason"], registry=self.registry
        )
        self._cancelled = Counter(
            "skipvit_cancelled", "Pictures whose client went away while they waited", registry=self.registry
        )
        self._children: dict[tuple[str, ...], Callable[[float], None]] = {}
        self.in_flight = 0
        self._gauge("skipvit_inflight_requests", "Requests being answered", lambda: self.in_flight)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def request(self, model: str, version: str, route: str, outcome: Outcome) -> None:
        """Counts a finished request; ``route`` is one of our own paths, never the client's."""
        key = ("request", model, version, route, outcome)
        count = self._children.get(key)
        if count is None:
            count = self._children[key] = self._requests.labels(model, version, route, outcome).inc
        count(1.0)

    def stage(self, stage: Stage, seconds: float) -> None:
        """Records the time a request or picture spent in a stage."""
        self._observe[stage](seconds)

    def batch(self, model: str, report: BatchReport) -> None:
        """Counts one run of a model; called from engine threads."""
        self._batch_size.labels(model).observe(report.size)
        self._batches.labels(model, report.reason).inc()

    def tiles(self, model: str, count: int) -> None:
        """Records how many tiles a picture was cut into."""
        self._tiles.labels(model).observe(count)

    def cancelled(self, pictures: int) -> None:
        """Counts pictures whose client went away before they were answered."""
        self._cancelled.inc(pictures)

    def rejected(self, reason: str) -> None:
        """Counts a request turned away; ``reason`` is an error code of ours."""
        self._rejected.labels(reason).inc()

    def watch_models(self, states: Callable[[], Iterable[ModelState]]) -> None:
        """Adds gauges that ask for the models when they are scraped: what is served changes in the course of time."""
        self.registry.register(_Models(states))

    def watch_decoding(self, waiting: Callable[[], int]) -> None:
        """Adds a gauge of pictures that wait for a decode thread."""
        self._gauge("skipvit_decode_queue_images", "Pictures waiting for a decode thread", waiting)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        Gauge(name, help_text, registry=self.registry).set_function(value)
