"""Metrics of several processes as those of one, whoever is asked and whoever has died."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve.fronts.metrics import merged
from serve.fronts.scrape import Scrapes, nothing
from serve.fronts.seat import Seat
from serve.fronts.share import share_of
from serve.models.settings import ModelSettings
from serve.monitoring.metrics import Metrics
from serve.settings import Settings


def process(requests: int, latencies: tuple[float, ...] = (), ready: float = 1.0, waiting: int = 0) -> bytes:
    """What one process says of itself."""
    registry = CollectorRegistry()
    Counter("skipvit_requests", "Requests", ["route"], registry=registry).labels("/v1/classify").inc(requests)
    histogram = Histogram("skipvit_stage_seconds", "Time", buckets=(0.1, 1.0), registry=registry)
    for latency in latencies:
        histogram.observe(latency)
    Gauge("skipvit_model_ready", "Ready", registry=registry).set(ready)
    Gauge("skipvit_queue_images", "Waiting", registry=registry).set(waiting)
    return generate_latest(registry)


def values(text: bytes) -> dict[str, float]:
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_one_process_alone_is_what_it_says() -> None:
    metrics = Metrics()
    metrics.request("shades", "1", "/v1/classify", "ok")
    metrics.stage("decode", 0.003, "shades")
    own = metrics.render()
    assert values(merged([own])) == values(own)
    kinds = [line for line in own.splitlines() if line.startswith(b"# TYPE") and b"_created" not in line]
    assert set(kinds) <= set(merged([own]).splitlines())


def test_what_is_a_quantity_is_added_and_readiness_is_not() -> None:
    found = values(merged([process(3, (0.05, 0.5), waiting=2), process(4, (0.07,), ready=0.0, waiting=5)]))
    assert found['skipvit_requests_total{route="/v1/classify"}'] == 7
    assert found['skipvit_stage_seconds_bucket{le="0.1"}'] == 2
    assert found['skipvit_stage_seconds_bucket{le="+Inf"}'] == found["skipvit_stage_seconds_count"] == 3
    assert found["skipvit_stage_seconds_sum"] == pytest.approx(0.62)
    assert found["skipvit_queue_images"] == 7
    assert found["skipvit_model_ready"] == 0


def test_the_dead_leave_their_counts_and_nothing_that_they_held() -> None:
    found = values(merged([process(3, (0.05,), waiting=2)], counts_only=True))
    assert found['skipvit_requests_total{route="/v1/classify"}'] == 3
    assert found["skipvit_stage_seconds_count"] == 1
    assert not [name for name in found if "queue" in name or "ready" in name or "created" in name]


def scraped(scrapes: Scrapes, asker: str, own: bytes, others: dict[str, bytes]) -> float:
    """Requests of all processes, as ``asker`` is told when it is scraped."""
    given: list[list[bytes]] = []
    number = scrapes.begin(asker, own, list(others), given.append)
    for name, samples in others.items():
        assert not given
        scrapes.add(number, name, samples)
    [texts] = given
    return values(merged([own, *texts]))['skipvit_requests_total{route="/v1/classify"}']


def test_a_sum_never_goes_back_when_a_process_dies() -> None:
    scrapes = Scrapes()
    assert scraped(scrapes, "a", process(3), {"b": process(4)}) == 7
    scrapes.bury("a")  # which was never asked by another
    assert scraped(scrapes, "b", process(5), {}) == 8
    assert scraped(scrapes, "b", process(5), {"c": process(1)}) == 9
    scrapes.bury("c")
    scrapes.bury("b")
    assert scraped(scrapes, "d", process(0), {}) == 9


def test_nothing_is_left_of_what_a_process_was_doing() -> None:
    scrapes, given = Scrapes(inherit=nothing), list[list[bytes]]()
    scrapes.add(scrapes.begin("a", b"busy", ["b"], given.append), "b", b"busy too")
    scrapes.bury("b")
    scrapes.begin("a", b"busy", [], given.append)
    assert given == [[b"busy too"], []]


def test_who_does_not_answer_in_time_is_taken_as_it_last_was() -> None:
    now = 0.0
    scrapes = Scrapes(lambda: now)
    assert scraped(scrapes, "a", process(3), {"b": process(4)}) == 7
    given: list[list[bytes]] = []
    number = scrapes.begin("a", process(3), ["b"], given.append)
    scrapes.expire()
    assert not given
    now = max(scrapes.deadlines())
    scrapes.expire()
    [texts] = given
    assert values(merged([process(3), *texts]))['skipvit_requests_total{route="/v1/classify"}'] == 7
    scrapes.add(number, "b", process(9))  # too late, and kept for the next
    assert len(given) == 1
    assert scraped(scrapes, "a", process(3), {"b": process(9)}) == 12


def test_who_dies_while_it_is_asked_is_not_waited_for() -> None:
    scrapes = Scrapes()
    given: list[list[bytes]] = []
    scrapes.begin("a", process(1), ["b"], given.append)
    scrapes.bury("b")
    assert len(given) == 1


def test_pauses_grow_while_a_process_keeps_dying() -> None:
    seat = Seat("front")
    pauses = []
    for seat.deaths in range(1, 12):
        pauses.append(seat.pause_s())
    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_limits_are_divided_between_fronts() -> None:
    whole = Settings(
        fronts=3, max_in_flight=128, max_videos=2, decode_threads=4, models={"big": ModelSettings(max_in_flight=10)}
    )
    share = share_of(whole)
    assert (share.max_in_flight, share.max_videos, share.decode_threads) == (43, 1, 2)
    assert share.models["big"].max_in_flight == 4
    assert share.max_pixels_in_flight >= share.max_pixels  # the largest picture can still come
    assert share.max_buffered_bytes >= share.max_body_bytes
    assert share.max_idle_connections == 0  # each takes its own half of the files it may open
    assert share_of(Settings(fronts=3, max_idle_connections=100)).max_idle_connections == 34
    small = share_of(Settings(fronts=64, max_files=16, max_in_flight=16))
    assert small.max_in_flight == 16  # and so can a request of the most pictures
