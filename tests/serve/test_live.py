"""The server's last ten seconds at /v1/status, against what was asked of it."""

import asyncio
from pathlib import Path

import httpx
import pytest

from serve.monitoring.recent import Recent
from serve.settings import Settings
from tests.serve.servers import png, run

PNG = {"Content-Type": "image/png"}


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens in a test happens in the last second, however slow the machine."""
    monkeypatch.setattr("serve.monitoring.metrics.Recent", lambda: Recent(lambda: 1000.0))


def test_an_idle_server_and_a_busy_one(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        idle = (await client.get("/v1/status")).json()
        assert (idle["status"], idle["models"], idle["ready"], idle["waiting"]) == ("ready", 2, 2, 0)
        assert idle["in_flight"] == 1
        assert (idle["requests_per_s"], idle["images_per_s"], idle["rejected"], idle["failed"]) == (0, 0, 0, 0)
        assert idle["mean_batch"] is idle["p50_ms"] is idle["p99_ms"] is None
        for _ in range(8):
            assert (await client.post("/v1/classify", content=png(), headers=PNG)).status_code == 200
        assert (await client.post("/v1/classify", content=b"bad", headers=PNG)).status_code == 400
        # A run is counted after its answer is on its way.
        while (busy := (await client.get("/v1/status")).json())["images_per_s"] < 8:
            await asyncio.sleep(0.01)
        assert (busy["seconds"], busy["requests_per_s"], busy["images_per_s"]) == (1, 8, 8)
        assert busy["mean_batch"] == 1
        assert 0 < busy["p50_ms"] <= busy["p99_ms"]
        assert busy["uptime_s"] >= idle["uptime_s"]
        head = await client.head("/v1/status")
        assert (head.status_code, head.content) == (200, b"")

    run(models_dir, scenario)


def test_what_is_turned_away_is_told(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/classify", content=png(), headers=PNG)).status_code == 429
        status = (await client.get("/v1/status")).json()
        assert (status["rejected"], status["failed"], status["requests_per_s"]) == (1, 0, 0)

    run(models_dir, scenario, Settings(decode_threads=1, tile_threads=1, max_buffered_bytes=1))
