"""Deadlines: told at once, while the engine is held, and what was not yet computed never is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from serve.errors import BadField, BadTensor, DeadlineExceeded
from serve.models.repository import Repository
from serve.settings import Settings
from serve.urgency import Deadline, Priority, parse_priority, parse_timeout
from tests.serve.denoisers import held_denoiser
from tests.serve.servers import HeldEngine, encoded, held_repository, in_process, png

CLASSIFY, INFER, DENOISE = "/v1/classify", "/v2/models/shades/infer", "/v1/denoise"
RAW = {"Inference-Header-Content-Length": "0"}
# Long enough for a request to reach the engine on the slowest machine; tests wait for it to be over, not for less.
SOON = "0.3"


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def held(models_dir: Path, settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, HeldEngine, Repository]]:
    """A server of one classifier whose engine is held at its gate."""
    repository, engine = held_repository(models_dir, settings)
    async with in_process(repository, settings) as client:
        engine.gate.clear()
        engine.entered = engine.seen = 0
        try:
            yield client, engine, repository
        finally:
            engine.gate.set()


@pytest.mark.parametrize("engine_threads", [0, 1], ids=["lent hands", "own threads"])
@pytest.mark.parametrize(("path", "headers"), [(CLASSIFY, {}), (INFER, RAW)], ids=["classify", "oip"])
def test_a_request_that_waits_is_told_when_its_time_is_over_and_never_computed(
    models_dir: Path, path: str, headers: dict[str, str], engine_threads: int
) -> None:
    async def main() -> None:
        settings = Settings(decode_threads=1, engine_threads=engine_threads)
        async with held(models_dir, settings) as (client, engine, _):
            first = asyncio.create_task(client.post(CLASSIFY, content=png()))
            await until(lambda: engine.entered == 1)
            late = await client.post(path, content=png(), headers={**headers, "X-Request-Timeout": SOON})
            assert late.status_code == 504
            said = "there was no answer within the 0.3 s that the request was given"
            assert said in (late.json()["error"] if path == INFER else late.json()["error"]["message"])
            [stats] = (await client.get("/v2/models/shades/stats")).json()["model_stats"]
            assert stats["inference_stats"]["fail"]["count"] == (path == INFER)
            engine.gate.set()
            assert (await first).status_code == 200
            assert (await client.post(CLASSIFY, content=png())).status_code == 200
            assert engine.seen == 2, "the late one was dropped"

    asyncio.run(main())


def test_what_is_being_computed_when_its_time_is_over_gives_its_places_back(models_dir: Path) -> None:
    async def main() -> None:
        settings = Settings(decode_threads=1, engine_threads=1, max_in_flight=1, max_files=1)
        async with held(models_dir, settings) as (client, engine, _):
            late = await client.post(CLASSIFY, content=png(), headers={"X-Request-Timeout": SOON})
            assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
            engine.gate.set()
            assert (await client.post(CLASSIFY, content=png())).status_code == 200

    asyncio.run(main())


def test_a_denoiser_takes_no_more_tiles_of_a_picture_whose_time_is_over(models_dir: Path) -> None:
    async def main() -> None:
        settings = Settings(tile_threads=1, max_batch=1)
        repository, engine = held_denoiser(models_dir, settings)
        async with in_process(repository, settings) as client:
            engine.close_after(0)
            big = encoded(Image.new("L", (400, 400), 10))
            waiting = asyncio.create_task(client.post(DENOISE, content=big, headers={"X-Request-Timeout": "1"}))
            await until(lambda: engine.entered or waiting.done())
            late = await waiting
            assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
            entered = engine.entered
            engine.gate.set()
            batcher = repository.models["clean"].batcher
            assert (await client.post(DENOISE, content=png(size=(8, 8)))).status_code == 200
            await until(lambda: batcher.waiting == 0)
            assert engine.entered == entered + 1, "one tile of the small picture, and none of the big one's"

    asyncio.run(main())


def test_oip_has_tritons_timeout_in_microseconds(models_dir: Path) -> None:
    async def main() -> None:
        async with held(models_dir, Settings(decode_threads=1, engine_threads=1)) as (client, _, _):
            request = {
                "parameters": {"timeout": 200_000},
                "inputs": [{"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [7] * 192}],
            }
            late = await client.post(INFER, json=request)
            assert late.status_code == 504
            assert "within the 0.2 s" in late.json()["error"]

    asyncio.run(main())


def test_the_servers_own_limit_wins_where_it_is_less(models_dir: Path) -> None:
    async def main() -> None:
        settings = Settings(decode_threads=1, engine_threads=1, request_timeout_s=0.2)
        async with held(models_dir, settings) as (client, _, _):
            for headers in ({}, {"X-Request-Timeout": "3600"}):
                late = await client.post(CLASSIFY, content=png(), headers=headers)
                assert late.status_code == 504
                assert "within the 0.2 s" in late.json()["error"]["message"]

    asyncio.run(main())


def test_a_body_that_never_ends_is_a_504_that_closes_the_connection(models_dir: Path) -> None:
    async def main() -> None:
        async def endless() -> AsyncIterator[bytes]:
            yield png()
            await asyncio.Event().wait()

        async with held(models_dir, Settings(decode_threads=1)) as (client, _, _):
            waiting = client.post(CLASSIFY, content=endless(), headers={"X-Request-Timeout": SOON})
            late = await asyncio.wait_for(waiting, 30)
            assert (late.status_code, late.headers["connection"]) == (504, "close")

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "0", "0.0009", "3600.1", "-1", "nan", "inf", "1_0", "soon", "1" * 40, "\u0661"])
def test_a_bad_timeout_is_said_to_be_one(models_dir: Path, text: str) -> None:
    with pytest.raises(BadField, match=r"X-Request-Timeout is .*, seconds from 0\.001 to 3600 were needed"):
        parse_timeout(text)


def test_bad_headers_have_each_protocols_own_status(models_dir: Path) -> None:
    async def main() -> None:
        async with held(models_dir, Settings(decode_threads=1)) as (client, _, _):
            for name in ("X-Request-Timeout", "X-Request-Priority"):
                assert (await client.post(CLASSIFY, content=png(), headers={name: "x"})).status_code == 422
                assert (await client.post(INFER, content=png(), headers={**RAW, name: "x"})).status_code == 400
            for name in ("timeout", "priority"):
                body: dict[str, Any] = {"parameters": {name: -1}, "inputs": []}
                body["inputs"] = [{"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [7] * 192}]
                refused = await client.post(INFER, json=body)
                assert refused.status_code == 400
                assert f"{name} is '-1'" in refused.json()["error"]

    asyncio.run(main())


def test_priorities_have_names() -> None:
    names = [parse_priority(text) for text in ("high", None, "normal", "low")]
    assert names == [Priority.HIGH, Priority.NORMAL, Priority.NORMAL, Priority.LOW]
    for text in ("urgent", "", "HIGH"):
        with pytest.raises(BadTensor, match="high, normal, low was needed"):
            parse_priority(text, BadTensor)


def test_timeouts_are_decimal_numbers() -> None:
    assert [parse_timeout(text) for text in (None, "0.001", "2.5", "3600", "1e1")] == [None, 0.001, 2.5, 3600.0, 10.0]


def test_a_deadline_that_was_met_ends_nothing() -> None:
    async def main() -> str:
        async with Deadline(0.01) as deadline:
            deadline.met()
            await asyncio.sleep(0.05)
            return "answered"

    assert asyncio.run(main()) == "answered"


def test_a_deadline_is_brought_forward_and_never_put_off() -> None:
    async def main() -> None:
        async with Deadline(3600.0) as deadline:
            deadline.within(0.01)
            deadline.within(7200.0)
            await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
        asyncio.run(main())


def test_cancelling_a_request_is_no_deadline() -> None:
    async def main() -> None:
        async def wait() -> None:
            async with Deadline(3600.0):
                await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
