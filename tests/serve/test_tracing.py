"""Traces through OpenTelemetry's in-memory exporter: a span for each request, its stages below, the caller above."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.cli import main
from serve.models.repository import Repository
from serve.monitoring import tracing
from serve.monitoring.logs import JsonFormatter
from serve.monitoring.tracing import TracingUnavailable, check_packages, open_tracing
from serve.settings import Settings
from tests.serve.servers import in_process, png

sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

Scenario = Callable[[httpx.AsyncClient], Awaitable[None]]
PNG = {"Content-Type": "image/png"}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def traced(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], list[Any]]:
    """Plays a scenario with a server that traces into memory, and returns what it exported."""
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_provider", lambda: provider)
    monkeypatch.setattr(tracing, "check_packages", lambda: None)  # the exporter over HTTP is not needed here

    def run(scenario: Scenario) -> list[Any]:
        settings = Settings(decode_threads=1, tile_threads=1, tracing="on")

        async def main() -> None:
            async with in_process(Repository.open(models_dir, settings), settings) as client:
                await scenario(client)

        asyncio.run(main())
        return list(exporter.get_finished_spans())

    return run


def test_a_request_is_a_span_with_its_stages_below(traced: Callable[[Scenario], list[Any]]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        files = [("file", (f"{k}.png", png(), "image/png")) for k in range(3)]
        assert (await client.post("/v1/classify", files=files)).status_code == 200

    *stages, request = traced(scenario)
    assert request.name == "POST /v1/classify"
    assert request.kind.name == "SERVER"
    assert request.parent is None
    said = request.attributes
    assert (said["http.route"], said["http.response.status_code"]) == ("/v1/classify", 200)
    assert (said["skipvit.model"], said["skipvit.version"], said["skipvit.images"]) == ("shades", "1", 3)
    assert 1 <= said["skipvit.batch"] <= 3
    assert [span.name for span in stages] == ["read", "decode", "queue", "infer"]
    assert [span.attributes["skipvit.count"] for span in stages] == [1, 3, 3, 3]
    end = request.start_time
    for span in stages:
        assert span.parent.span_id == request.context.span_id
        assert end <= span.start_time <= span.end_time <= request.end_time
        end = span.end_time


def test_stages_of_a_denoised_picture_are_inside_its_denoising(traced: Callable[[Scenario], list[Any]]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/denoise", content=png(size=(200, 200)), headers=PNG)).status_code == 200

    spans = {span.name: span for span in traced(scenario)}
    outer = spans["denoise"]
    assert set(spans) == {"POST /v1/denoise", "read", "decode", "denoise", "encode", "queue", "infer"}
    assert spans["infer"].attributes["skipvit.count"] == spans["POST /v1/denoise"].attributes["skipvit.tiles"] > 1
    assert outer.start_time <= spans["queue"].start_time <= spans["infer"].start_time
    assert spans["encode"].start_time >= outer.end_time


def test_the_callers_trace_goes_on_and_a_malformed_one_does_not(traced: Callable[[Scenario], list[Any]]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for parent in (f"00-{TRACE}-{PARENT}-01", "00-nonsense-01", f"00-{TRACE}-{PARENT}-00"):
            await client.get("/livez", headers={"traceparent": parent})

    followed, fresh = traced(scenario)  # the third caller wants no record of it
    assert f"{followed.context.trace_id:032x}" == TRACE
    assert f"{followed.parent.span_id:016x}" == PARENT
    assert fresh.parent is None


def test_failures_are_marked(traced: Callable[[Scenario], list[Any]]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        await client.post("/v1/classify", content=b"no picture", headers=PNG)
        await client.get("/v1/nothing")

    bad, missing = (span for span in traced(scenario) if span.kind.name == "SERVER")
    assert (bad.attributes["http.response.status_code"], bad.status.status_code.name) == (400, "UNSET")
    assert missing.attributes["http.route"] == "other"


def test_log_lines_name_the_trace(traced: Callable[[Scenario], list[Any]], caplog: pytest.LogCaptureFixture) -> None:
    lines: list[dict[str, Any]] = []

    class Written(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    async def scenario(client: httpx.AsyncClient) -> None:
        await client.post("/v1/classify", content=png(), headers={**PNG, "traceparent": f"00-{TRACE}-{PARENT}-01"})

    caplog.set_level("INFO", "serve.access")
    handler = Written()
    logging.getLogger("serve.access").addHandler(handler)
    try:
        traced(scenario)
    finally:
        logging.getLogger("serve.access").removeHandler(handler)
    assert [(line["path"], line["trace_id"]) for line in lines] == [("/v1/classify", TRACE)]


def test_it_is_off_unless_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert open_tracing("auto") is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert open_tracing("off") is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert open_tracing("on") is None


def test_the_real_exporter_opens_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    check_packages()
    opened = open_tracing("auto")
    assert opened is not None
    assert opened._provider.resource.attributes["service.name"] == "skipvit"
    opened.close()


def test_packages_that_are_not_here(
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(TracingUnavailable, match=r"pip install 'skipvit\[otel\]'"):
        check_packages()
    assert open_tracing("auto") is None
    assert "no traces, though the environment names a collector" in caplog.text
    assert main([str(models_dir), "--tracing", "on"]) == 1
    assert "tracing needs OpenTelemetry's packages" in capsys.readouterr().err
