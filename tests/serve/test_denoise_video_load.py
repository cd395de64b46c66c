"""Clips beside others: at once, held up, too many, abandoned, and at the end of the drain."""

import asyncio
import socket
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from serve.engines.engine import OnnxCpuEngine
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.settings import Settings
from skipvit.artifacts import read_entry
from tests.serve.clips import clip, decoded, noise_frames
from tests.serve.servers import HeldEngine, in_process, over_socket, png, run, wait_until

ROUTE = "/v1/denoise/video"
MATROSKA = {"Content-Type": "video/x-matroska", "Accept": "video/x-matroska"}
SETTINGS = Settings(decode_threads=1, tile_threads=2, access_log=False)


def held(video_models: Path, settings: Settings) -> tuple[Repository, HeldEngine]:
    """A repository of the classifier and an identity for video that waits at its gate."""
    classifier, video = read_entry(video_models, "shades"), read_entry(video_models, "steady")
    engine = HeldEngine(OnnxCpuEngine.from_entry(video))
    shades = ServedModel(classifier, OnnxCpuEngine.from_entry(classifier), settings, 10)
    return Repository([shades, ServedModel(video, engine, settings)]), engine


def test_two_clips_and_pictures_at_once(video_models: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        one, other = noise_frames(9, 64, 64, seed=1), noise_frames(7, 50, 33, seed=2)
        clips = [client.post(ROUTE, content=clip(frames), headers=MATROSKA) for frames in (one, other)]
        pictures = [
            client.post("/v1/classify", content=png(k * 255 // 9), headers={"Content-Type": "image/png"})
            for k in range(10)
        ]
        first, second, *answers = await asyncio.gather(*clips, *pictures)
        for response, frames in ((first, one), (second, other)):
            assert all(np.array_equal(a, b) for a, b in zip(decoded(response.content)[0], frames, strict=True))
        labels = [answer.json()["results"][0]["predictions"][0]["label"] for answer in answers]
        assert labels == [str(k) for k in range(10)]

    run(video_models, scenario)


def test_pictures_pass_a_clip_that_is_held_up(video_models: Path) -> None:
    repository, engine = held(video_models, SETTINGS)

    async def main() -> None:
        async with in_process(repository, SETTINGS) as client:
            engine.gate.clear()
            slow = asyncio.create_task(client.post(ROUTE, content=clip(noise_frames(6)), headers=MATROSKA))
            await asyncio.to_thread(wait_until, lambda: engine.entered > engine.seen, 60)
            picture = await client.post("/v1/classify", content=png(), headers={"Content-Type": "image/png"})
            assert picture.status_code == 200
            assert not slow.done()
            engine.gate.set()
            assert (await slow).status_code == 200

    asyncio.run(main())


def test_more_clips_than_allowed_are_told_to_come_back(video_models: Path) -> None:
    settings = Settings(max_videos=1, tile_threads=1)
    repository, engine = held(video_models, settings)

    async def main() -> None:
        async with in_process(repository, settings) as client:
            engine.gate.clear()
            first = asyncio.create_task(client.post(ROUTE, content=clip(noise_frames(6)), headers=MATROSKA))
            await asyncio.to_thread(wait_until, lambda: engine.entered > engine.seen, 60)
            second = await client.post(ROUTE, content=clip(noise_frames(6)), headers=MATROSKA)
            assert second.status_code == 429
            assert int(second.headers["retry-after"]) >= 1
            assert "1 clips" in second.json()["error"]["message"]
            unread = await client.post(ROUTE, content=b"", headers=MATROSKA)
            assert unread.status_code == 429, "it was turned away before its body was looked at"
            engine.gate.set()
            assert (await first).status_code == 200
            assert (await client.post(ROUTE, content=clip(noise_frames(6)), headers=MATROSKA)).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize("accept", ["video/mp4", "application/x-ndjson"])
def test_a_client_that_hangs_up_stops_the_work(video_models: Path, accept: str) -> None:
    settings = Settings(max_videos=1, tile_threads=1, access_log=False)
    repository, engine = held(video_models, settings)
    data = clip(noise_frames(200, 64, 64))
    with over_socket(repository, settings) as url:
        address = httpx.URL(url)
        headers = {"Content-Type": "video/x-matroska", "Accept": accept}
        lines = [f"{name}: {value}" for name, value in {**headers, "Host": "x", "Content-Length": len(data)}.items()]
        engine.gate.clear()
        with socket.create_connection((address.host, address.port or 80)) as client:
            client.sendall("\r\n".join([f"POST {ROUTE} HTTP/1.1", *lines, "\r\n"]).encode() + data)
            wait_until(lambda: engine.entered > engine.seen, 60)
        wait_until(lambda: 'skipvit_cancelled_total{where="infer"} 1.0' in httpx.get(url + "/metrics").text, 60)
        before = engine.seen
        engine.gate.set()
        # The place of the only clip is free again, and nearly all of the first clip's tiles were never run.
        deadline = time.monotonic() + 60
        again = clip(noise_frames(2))
        while (answer := httpx.post(url + ROUTE, content=again, headers=headers, timeout=60)).status_code == 429:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answer.status_code == 200
        assert engine.seen - before < 30


@pytest.mark.parametrize("accept", ["video/mp4", "application/x-ndjson"])
def test_the_end_of_the_drain_is_told_to_who_waits(video_models: Path, accept: str) -> None:
    repository, engine = held(video_models, SETTINGS)

    async def main() -> None:
        async with in_process(repository, SETTINGS) as client:
            engine.gate.clear()
            task = asyncio.create_task(
                client.post(ROUTE, content=clip(noise_frames(6)), headers={**MATROSKA, "Accept": accept})
            )
            await asyncio.to_thread(wait_until, lambda: engine.entered > engine.seen, 60)
            task.cancel()  # as uvicorn does when the time to drain is over
            response = await task
            assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
            engine.gate.set()

    asyncio.run(main())
