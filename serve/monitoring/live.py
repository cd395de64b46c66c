"""GET /v1/status: how the server is doing now, in one small answer that the page asks for every other second."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from fastapi import FastAPI
from pydantic import BaseModel, Field

from serve.models.repository import Repository, State
from serve.monitoring.metrics import Metrics
from serve.monitoring.recent import Tally, figures_of

STATUS = "/v1/status"


class Status(BaseModel):
    """Where the server stands, what waits in it, and its last ten seconds. Quantiles are within 3 %."""

    status: State
    models: int = Field(ge=0, description="Models that are served, each version of one counted")
    ready: int = Field(ge=0, description="How many of them answer")
    waiting: int = Field(ge=0, description="Pictures and tiles that wait to be decoded or run")
    in_flight: int = Field(ge=0, description="Requests being answered, this one among them")
    seconds: float = Field(ge=0, description="How long the time is that the figures below are of")
    requests_per_s: float = Field(ge=0, description="Answers to requests for a model")
    images_per_s: float = Field(ge=0, description="Pictures and tiles that models ran on")
    mean_batch: float | None = Field(ge=1, description="Pictures or tiles per run of a model; null if there was none")
    p50_ms: float | None = Field(ge=0, description="Time of a request from its first byte to its answer's last, median")
    p99_ms: float | None = Field(ge=0, description="The same, which 99 of 100 stay within")
    rejected: int = Field(ge=0, description="Requests turned away with 429 or 503")
    failed: int = Field(ge=0, description="Requests that the server failed, or did not finish by their deadline")
    uptime_s: float = Field(ge=0, description="How long the server has run")


class Part(BaseModel):
    """What one process adds to the status of its server."""

    tally: Tally
    waiting: int
    in_flight: int
    uptime_s: float


class Others(Protocol):
    """The other processes of a server of several."""

    async def parts(self, own: Callable[[], Part]) -> Sequence[Part]:
        """Those of all processes, and ``own``. Raises NotReady if they cannot be had."""
        ...


class Watched:
    """Gives the part of this process. ``waiting`` counts pictures and tiles that wait in it."""

    def __init__(self, metrics: Metrics, waiting: Callable[[], int]) -> None:
        self._metrics = metrics
        self._waiting = waiting
        self._started = time.monotonic()

    def part(self) -> Part:
        """How it is now."""
        metrics, uptime_s = self._metrics, time.monotonic() - self._started
        return Part(
            tally=metrics.recent.tally(), waiting=self._waiting(), in_flight=metrics.in_flight, uptime_s=uptime_s
        )


def add_live_route(app: FastAPI, repository: Repository, watched: Watched, others: Others | None) -> None:
    """Adds the route; with ``others`` it tells of all processes. HEAD answers where GET does."""

    async def status() -> Status:
        """For people: Prometheus has the same, with its history, from /metrics."""
        parts = await others.parts(watched.part) if others else [watched.part()]
        recent = figures_of([part.tally for part in parts])
        served = repository.served
        return Status(
            status=repository.state,
            models=len(served),
            ready=sum(map(repository.is_ready, served)),
            waiting=sum(part.waiting for part in parts),
            in_flight=sum(part.in_flight for part in parts),
            seconds=round(recent.seconds, 1),
            requests_per_s=round(recent.answered / recent.seconds, 2),
            images_per_s=round(recent.images / recent.seconds, 2),
            mean_batch=round(recent.images / recent.batches, 2) if recent.batches else None,
            p50_ms=_ms(recent.p50_s),
            p99_ms=_ms(recent.p99_s),
            rejected=recent.rejected,
            failed=recent.failed,
            uptime_s=round(max(part.uptime_s for part in parts), 1),
        )

    app.get(STATUS, summary="How is it doing?", tags=["probes"])(status)
    app.head(STATUS, include_in_schema=False)(status)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
