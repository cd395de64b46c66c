"""Denoising under load: shared batches, fairness, overload, clients that hang up, engines that fail."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.engines.engine import Rows
from serve.models.repository import Repository
from serve.settings import Settings
from skipvit.transforms import Pixels
from tests.serve.denoisers import HeldDenoiser, held_denoiser, write_denoiser
from tests.serve.servers import encoded, in_process, over_socket, png, until, wait_until, write_model

DENOISE = "/v1/denoise"
# 400 x 400 pixels are 8 x 8 tiles of 64.
BIG, TILES = encoded(Image.new("L", (400, 400), 10)), 64


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("held")
    write_denoiser(root)
    return root


@asynccontextmanager
async def held(root: Path, settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, HeldDenoiser, Repository]]:
    """A server whose denoiser is held at its gate, with nothing counted yet."""
    repository, engine = held_denoiser(root, settings)
    async with in_process(repository, settings) as client:
        engine.close_after(0)
        try:
            yield client, engine, repository
        finally:
            engine.gate.set()


def test_one_picture_never_has_more_tiles_in_flight_than_allowed(root: Path) -> None:
    async def main() -> None:
        async with held(root, Settings(tile_threads=2, max_batch=1)) as (client, engine, repository):
            batcher = repository.models["clean"].batcher
            task = asyncio.create_task(client.post(DENOISE, content=BIG))
            await until(lambda: engine.entered == 2 and batcher.waiting == 1)
            await asyncio.sleep(0.05)
            assert (engine.entered, batcher.waiting) == (2, 1)  # one and a half times as many as threads
            engine.gate.set()
            response = await task
            assert response.headers["x-skipvit-tiles"] == str(TILES)
            assert engine.seen == TILES

    asyncio.run(main())


def test_a_small_picture_is_next_while_a_big_one_is_restored(root: Path) -> None:
    """Its one tile queues behind what the big one has in flight, and not behind all of it."""
    order: list[int] = []
    answered = threading.Event()

    async def main() -> None:
        async with held(root, Settings(tile_threads=1, max_batch=1)) as (client, engine, repository):
            run, model = engine.engine.run, repository.models["clean"]

            def watched(batch: Pixels) -> Rows:
                if 200 in order:  # the big one goes on when the small one has its answer, on however slow a machine
                    answered.wait(30)
                order.append(int(batch[0, 0, 0, 0]))
                return run(batch)

            engine.engine.run = watched  # type: ignore[method-assign]
            big = asyncio.create_task(client.post(DENOISE, content=BIG))
            await until(lambda: model.batcher.waiting == 1)
            small = asyncio.create_task(client.post(DENOISE, content=png(200)))
            await until(lambda: model.batcher.waiting == 2)
            engine.gate.set()
            assert (await small).status_code == 200
            assert not big.done()
            answered.set()
            assert (await big).status_code == 200

    asyncio.run(main())
    assert order.index(200) <= 2
    assert len(order) == TILES + 1


def test_tiles_of_many_requests_share_batches(root: Path) -> None:
    async def main() -> None:
        settings = Settings(tile_threads=1, max_batch=8, batch_budget_ms=60_000)
        async with held(root, settings) as (client, engine, repository):
            tasks = [asyncio.create_task(client.post(DENOISE, content=png(level))) for level in range(0, 90, 10)]
            await until(lambda: engine.entered + repository.models["clean"].batcher.waiting == 9)
            engine.gate.set()
            for level, task in zip(range(0, 90, 10), tasks, strict=True):
                assert (await task).content == (await client.post(DENOISE, content=png(level))).content
            assert sum(engine.batches[:2]) == 9  # what came while the first batch ran went into the second

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(tile_threads=1, max_in_flight=1, max_files=1), "1 pictures are in flight and 1 more came"),
        (
            Settings(tile_threads=1, max_pixels=200_000, max_pixels_in_flight=200_000),
            "160000 pixels are in flight and 160000 more came, the limit is 200000",
        ),
    ],
    ids=["pictures", "pixels"],
)
def test_overload_is_a_429_with_advice(root: Path, settings: Settings, message: str) -> None:
    async def main() -> None:
        async with held(root, settings) as (client, engine, _):
            first = asyncio.create_task(client.post(DENOISE, content=BIG))
            await until(lambda: engine.entered)
            refused = await client.post(DENOISE, content=BIG)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
            assert message in refused.json()["error"]["message"]
            assert int(refused.headers["retry-after"]) >= 1
            engine.gate.set()
            assert (await first).status_code == 200
            assert (await client.post(DENOISE, content=BIG)).status_code == 200

    asyncio.run(main())


def test_a_classifier_answers_while_tiles_are_computed(tmp_path: Path) -> None:
    """One decode thread, one place, and a denoiser that does not move: neither is lent to it."""
    write_denoiser(tmp_path)
    write_model(tmp_path)
    settings = Settings(decode_threads=1, tile_threads=1, max_batch=1, max_in_flight=1, max_files=1)
    gate = threading.Event()

    async def main() -> None:
        repository = Repository.open(tmp_path, settings)
        async with in_process(repository, settings) as client:
            engine = repository.models["clean"].engine
            run = engine.run

            def stuck(batch: Pixels) -> Rows:
                assert gate.wait(60)
                return run(batch)

            engine.run = stuck  # type: ignore[method-assign]
            denoising = asyncio.create_task(client.post(DENOISE, content=BIG))
            await until(lambda: repository.models["clean"].batcher.waiting)
            for _ in range(5):
                assert (await client.post("/v1/classify", content=png(255))).status_code == 200
            gate.set()
            assert (await denoising).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize("done", [0, 5])
def test_a_client_that_leaves_stops_its_tiles_and_frees_its_place(root: Path, done: int) -> None:
    settings = Settings(tile_threads=1, max_batch=1, max_pixels=200_000, max_pixels_in_flight=200_000)
    repository, engine = held_denoiser(root, settings)
    with over_socket(repository, settings) as url:
        engine.close_after(done)
        batcher = repository.models["clean"].batcher
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {DENOISE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BIG)}\r\n\r\n"
            connection.sendall(head.encode() + BIG)
            wait_until(lambda: engine.seen == done and batcher.waiting == 1)
        wait_until(lambda: 'skipvit_cancelled_total{where="infer"} 1.0' in httpx.get(f"{url}/metrics").text)
        seen = engine.entered
        engine.gate.set()
        # There is room for this one only once the abandoned picture has let go of its pixels.
        wait_until(lambda: httpx.post(url + DENOISE, content=BIG).status_code == 200)
        assert engine.entered <= seen + TILES + 1
        assert batcher.waiting == 0
        assert 'outcome="cancelled",route="/v1/denoise"' in httpx.get(f"{url}/metrics").text


def test_a_tile_that_fails_fails_its_picture_alone(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with held(root, Settings(tile_threads=1)) as (client, engine, _):
            engine.gate.set()
            run = engine.engine.run

            def fail(batch: Pixels) -> Rows:
                if (batch == 77).all(axis=(1, 2, 3)).any():
                    raise RuntimeError("the engine chokes on 77")
                return run(batch)

            engine.engine.run = fail  # type: ignore[method-assign]
            bad = np.zeros((200, 200), np.uint8)
            bad[60:190, 60:190] = 77
            bad_picture = encoded(Image.fromarray(bad))
            responses = await asyncio.gather(*[client.post(DENOISE, content=c) for c in (BIG, bad_picture, BIG)])
            assert [r.status_code for r in responses] == [200, 500, 200]
            assert responses[1].json()["error"]["code"] == "engine_failed"
            assert "the engine chokes on 77" in caplog.text
            assert "chokes" not in responses[1].text
            assert (await client.post(DENOISE, content=BIG)).status_code == 200

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_is_a_503_until_it_is_started_again(root: Path) -> None:
    async def main() -> None:
        async with held(root, Settings(tile_threads=1)) as (client, engine, repository):
            engine.gate.set()

            def die(batch: Pixels) -> Rows:
                raise SystemExit

            engine.engine.run = die  # type: ignore[method-assign]
            response = await client.post(DENOISE, content=BIG)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
            await until(lambda: repository.models["clean"].engine is not engine)
            assert (await client.post(DENOISE, content=BIG)).status_code == 200

    asyncio.run(main())


def test_shutting_down_ends_a_picture_that_takes_too_long_and_says_so(root: Path) -> None:
    settings = Settings(tile_threads=1)

    async def main() -> None:
        async with held(root, settings) as (client, engine, _):
            task = asyncio.create_task(client.post(DENOISE, content=BIG))
            await until(lambda: engine.entered)
            task.cancel()  # as uvicorn does when the time to drain is over
            response = await task
            assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
            assert response.headers["retry-after"] == "1"
            engine.gate.set()
        assert engine.seen < TILES

    asyncio.run(main())


def test_metrics_and_the_access_log_know_tiles(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(tile_threads=1)

    async def main() -> None:
        caplog.set_level("INFO", "serve.access")
        async with held(root, settings) as (client, engine, _):
            engine.gate.set()
            await client.post(DENOISE, content=BIG, headers={"Accept": "image/webp"})
            text = (await client.get("/metrics")).text
        for line in (
            'skipvit_tiles_sum{model="clean"} 64.0',
            'skipvit_stage_seconds_count{model="clean",stage="denoise"} 1.0',
            'skipvit_stage_seconds_count{model="clean",stage="encode"} 1.0',
            'skipvit_stage_seconds_count{model="clean",stage="infer"} 64.0',
            'skipvit_requests_total{model="clean",outcome="ok",route="/v1/denoise",version="1"} 1.0',
        ):
            assert line in text
        [fields] = [r.fields for r in caplog.records if r.name == "serve.access" and r.fields["path"] == DENOISE]  # type: ignore[attr-defined]
        assert (fields["model"], fields["tiles"], fields["type"]) == ("clean", 64, "image/webp")

    asyncio.run(main())
