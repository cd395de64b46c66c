"""Prometheus metrics of one app, in its own registry. Times are in seconds, labels are bounded."""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import skipvit
from serve.batcher import BatchReport
from serve.monitoring.families import OfChanges, OfRequests, OfRuns
from serve.monitoring.gpu_figures import GpuState
from serve.monitoring.recent import Recent
from serve.ticket import Ticket, Where

Stage = Literal["read", "decode", "queue", "infer", "denoise", "encode", "total"]
Outcome = Literal["ok", "client_error", "rejected", "server_error", "deadline", "cancelled"]

STAGES: tuple[Stage, ...] = ("read", "decode", "queue", "infer", "denoise", "encode", "total")


class ModelState(NamedTuple):
    """A served model at the moment of a scrape; ``waiting`` counts decoded pictures or tiles."""

    name: str
    version: str
    ready: bool
    waiting: int
    engine: str = ""
    device: str = ""


class _Models(Collector):
    def __init__(self, states: Callable[[], Iterable[ModelState]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("skipvit_model_ready", "1 while the model answers", labels=["model", "version"])
        queue = GaugeMetricFamily(
            "skipvit_queue_images", "Decoded pictures or tiles waiting for an engine", labels=["model", "version"]
        )
        info = GaugeMetricFamily(
            "skipvit_model_info", "1; what runs the model", labels=["model", "version", "engine", "device"]
        )
        for state in self._states():
            ready.add_metric([state.name, state.version], float(state.ready))
            queue.add_metric([state.name, state.version], float(state.waiting))
            info.add_metric([state.name, state.version, state.engine, state.device], 1.0)
        yield from (ready, queue, info)


class _Gpus(Collector):
    """GPUs as they were when ``states`` was last filled: asking them takes too long for the event loop."""

    def __init__(self, states: Callable[[], Iterable[GpuState]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        labels = ["gpu", "name"]
        families: dict[str, GaugeMetricFamily] = {
            "memory_used": GaugeMetricFamily("skipvit_gpu_memory_used_bytes", "By all processes", labels=labels),
            "memory_total": GaugeMetricFamily("skipvit_gpu_memory_total_bytes", "Of the GPU", labels=labels),
            "utilization": GaugeMetricFamily(
                "skipvit_gpu_utilization_ratio", "Share of time in which any kernel ran", labels=labels
            ),
            "temperature": GaugeMetricFamily("skipvit_gpu_temperature_celsius", "Of the chip", labels=labels),
        }
        for state in self._states():
            for field, family in families.items():
                if (value := getattr(state, field)) is not None:
                    family.add_metric([str(state.index), state.name], value)
        yield from families.values()


class _Groups(Collector):
    def __init__(self, steps: Callable[[], Iterable[tuple[str, int]]]) -> None:
        self._steps = steps

    def collect(self) -> Iterator[Metric]:
        step = GaugeMetricFamily(
            "skipvit_group_step", "Which variant of the group answers now: 0 is the most exact", labels=["group"]
        )
        for group, number in self._steps():
            step.add_metric([group], float(number))
        yield step


class Metrics:
    """What a server counts. Children are looked up once per label set: ``labels()`` is too slow for every request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = OfRequests(self.registry)
        self._runs = OfRuns(self.registry)
        self._changes = OfChanges(self.registry)
        build = Gauge("skipvit_build_info", "1; what runs here", ["version", "python"], registry=self.registry)
        build.labels(skipvit.__version__, platform.python_version()).set(1)
        self._children: dict[tuple[str, ...], Callable[[float], None]] = {}
        self.recent = Recent()
        self.on_stage: Callable[[str, float], None] | None = None  # told of each stage too
        self.gpus: Sequence[GpuState] = ()
        self.registry.register(_Gpus(lambda: self.gpus))
        self.in_flight = 0
        self._gauge("skipvit_inflight_requests", "Requests being answered", lambda: self.in_flight)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def request(self, model: str, version: str, route: str, outcome: Outcome) -> None:
        """Counts a finished request; ``route`` is one of our own paths, never the client's."""
        key = ("request", model, version, route, outcome)
        count = self._children.get(key)
        if count is None:
            count = self._children[key] = self._requests.finished.labels(model, version, route, outcome).inc
        count(1.0)
        if outcome == "rejected":
            self.recent.rejected()
        elif outcome in ("server_error", "deadline"):
            self.recent.failed()

    def stage(self, stage: Stage, seconds: float, model: str) -> None:
        """Records the time that a request or picture for ``model`` spent in a stage."""
        key = ("stage", stage, model)
        observe = self._children.get(key)
        if observe is None:
            observe = self._children[key] = self._requests.stages.labels(stage, model).observe
        observe(seconds)
        if self.on_stage is not None:
            self.on_stage(stage, seconds)

    def batch(self, model: str, report: BatchReport) -> None:
        """Counts one run of a model; called from engine threads."""
        self._runs.batch_size.labels(model).observe(report.size)
        self._runs.batches.labels(model, report.reason).inc()
        self._runs.images.labels(model).inc(report.size)
        self.recent.batch(report.size)

    def tiles(self, model: str, count: int) -> None:
        """Records how many tiles a picture was cut into."""
        self._runs.tiles.labels(model).observe(count)

    def loaded(self, model: str, outcome: Literal["ok", "failed"]) -> None:
        """Counts a version that was loaded, or was not, while the server runs."""
        self._changes.loads.labels(model, outcome).inc()

    def forget(self, model: str, version: str) -> None:
        """Drops the counts of a version's requests: versions come and go, and scrapes must not grow with them."""
        for key in [key for key in self._children if key[:3] == ("request", model, version)]:
            del self._children[key]
            self._requests.finished.remove(*key[1:])

    def cancelled(self, where: Where, pictures: int = 1) -> None:
        """Counts pictures whose client went away while they were in the stage ``where``."""
        self._requests.cancelled.labels(where).inc(pictures)

    def gave_up(self, tickets: Iterable[Ticket]) -> None:
        """Counts those of ``tickets`` that are not done, where each of them is now."""
        for ticket in tickets:
            if ticket.result is None and ticket.error is None:
                self.cancelled(ticket.where)

    def rejected(self, reason: str) -> None:
        """Counts a request turned away; ``reason`` is an error code of ours."""
        key = ("rejected", reason)
        count = self._children.get(key)
        if count is None:
            count = self._children[key] = self._requests.rejected.labels(reason).inc
        count(1.0)

    def group_request(self, group: str, variant: str) -> None:
        """Counts a request that named a group."""
        self._changes.group_requests.labels(group, variant).inc()

    def group_step(self, group: str, direction: Literal["down", "up"]) -> None:
        """Counts a step of a group's ladder."""
        self._changes.group_steps.labels(group, direction).inc()

    def watch_groups(self, steps: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """Adds a gauge of each group's step."""
        self.registry.register(_Groups(steps))

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
