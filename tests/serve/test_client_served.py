"""The Python client against a real server."""

import asyncio
import contextlib
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.models.repository import Repository
from serve.settings import Settings
from skipvit.client import AsyncClient, Classification, Client, Overloaded, Refused, Retries
from skipvit.client.errors import DeadlineExceeded
from tests.serve.clip_reading import read
from tests.serve.clips import clip, noise_frames
from tests.serve.servers import held_repository, over_socket, png, wait_until


def test_many_pictures_come_back_in_order_and_the_bad_one_alone_fails(url: str) -> None:
    levels = [0, 255, 113, 28]
    pictures = [png(level) for level in levels]
    pictures.insert(2, b"no picture")
    with Client(url) as client:
        results = client.classify_many(pictures, model="shades", top_k=3, concurrency=3)
    bad = results.pop(2)
    assert isinstance(bad, Refused)
    assert (bad.status, bad.code) == (400, "not_an_image")
    found = [result for result in results if isinstance(result, Classification)]
    assert [result.best.label for result in found] == [str(round(9 * level / 255)) for level in levels]
    assert all(len(result.predictions) == 3 and result.model.name == "shades" for result in found)
    assert all({"decode", "queue", "infer"} <= result.timing_ms.keys() for result in found)


def test_arrays_are_classified_as_they_are(url: str) -> None:
    with Client(url) as client:
        assert client.classify(np.full((20, 30, 3), 255, np.uint8)).best.label == "9"
        assert client.classify(Image.new("L", (5, 5), 0)).best.label == "0"


def test_the_servers_words_reach_the_caller(url: str) -> None:
    with Client(url) as client, pytest.raises(Refused, match=r"shadow.*did you mean 'shades'\?") as caught:
        client.classify(png(), model="shadow")
    assert (caught.value.status, caught.value.code) == (404, "unknown_model")
    assert caught.value.request_id


def test_a_picture_comes_back_from_a_denoiser(url: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 110, 3), np.uint8)
    with Client(url) as client:
        clean = client.denoise(pixels, model="clean")
        small = client.denoise(pixels, model="clean", accept="image/jpeg", quality=30)
    np.testing.assert_array_equal(np.asarray(clean.image()), pixels)
    assert (clean.media_type, clean.model) == ("image/png", "clean/1")
    assert clean.tiles is not None
    assert clean.tiles > 1
    assert clean.timing_ms.keys() >= {"decode", "denoise", "total"}
    assert Image.open(io.BytesIO(small.data)).format == "JPEG"


def test_models_are_listed(url: str) -> None:
    with Client(url) as client:
        found = {model.name: model for model in client.models()}
    assert (found["shades"].task, found["shades"].classes) == ("classification", 10)
    assert found["clean"].task == "denoising"


def test_a_clip_is_written_to_a_file(video_url: str, tmp_path: Path) -> None:
    frames = noise_frames(4)
    source, out = tmp_path / "noisy.mkv", tmp_path / "clean.mkv"
    source.write_bytes(clip(frames))
    received: list[int] = []
    with Client(video_url) as client:
        written = client.denoise_video(
            source, out, model="steady", sigma=20, accept="video/x-matroska", received=received.append
        )
    assert (written.path, written.size, written.media_type) == (out, out.stat().st_size, "video/x-matroska")
    assert sum(received) == written.size
    np.testing.assert_array_equal([frame.pixels for frame in read(out.read_bytes())[1]], frames)
    assert {path.name for path in tmp_path.iterdir()} == {"noisy.mkv", "clean.mkv"}


def test_a_full_server_answers_when_it_has_room_again(models_dir: Path) -> None:
    settings = Settings(max_in_flight=1, max_files=1, decode_threads=1, tile_threads=1, access_log=False)
    repository, engine = held_repository(models_dir, settings)

    async def play(url: str) -> None:
        async with AsyncClient(url, retries=Retries(30, 0.1, 0.1)) as client, AsyncClient(url, retries=0) as hasty:
            engine.gate.clear()
            first = asyncio.create_task(client.classify(png(0)))
            await asyncio.to_thread(wait_until, lambda: engine.entered > engine.seen)
            with pytest.raises(Overloaded) as caught:
                await hasty.classify(png(255))
            assert caught.value.retry_after_s is not None
            second = asyncio.create_task(client.classify(png(255)))
            await asyncio.sleep(0.1)
            engine.gate.set()
            assert [(await first).best.label, (await second).best.label] == ["0", "9"]

    with over_socket(repository, settings) as url:
        asyncio.run(play(url))


def test_a_servers_deadline_is_a_deadline_and_the_client_tells_its_own(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(request_timeout_s=0.3, decode_threads=1, access_log=False)
    repository, engine = held_repository(models_dir, settings)
    told: list[float] = []
    send = httpx.AsyncClient.send

    async def note(self: httpx.AsyncClient, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        told.append(float(request.headers["X-Request-Timeout"]))
        return await send(self, request, **kwargs)

    monkeypatch.setattr(httpx.AsyncClient, "send", note)
    with over_socket(repository, settings) as url, Client(url, timeout_s=40.0) as client:
        engine.gate.clear()
        with pytest.raises(DeadlineExceeded, match=r"within the 0\.3 s"):
            client.classify(png(0))
        assert len(told) == 1, "a deadline is not tried again"
        engine.gate.set()

        def answers() -> bool:  # within the deadline, for which a busy machine may need several questions
            with contextlib.suppress(DeadlineExceeded):
                return client.classify(png(0)).best.label == "0"
            return False

        wait_until(answers)
    assert all(0 < seconds <= 40 for seconds in told)


def test_a_body_over_the_limit_is_told_so_and_not_as_a_broken_connection(models_dir: Path) -> None:
    settings = Settings(max_body_bytes=10_000, decode_threads=1, tile_threads=1, access_log=False)
    with over_socket(Repository.open(models_dir, settings), settings) as url, Client(url) as client:
        for size in (10_001, 20_000_000):
            with pytest.raises(Refused, match="the limit is 10000") as caught:
                client.classify(bytes(size))
            assert caught.value.status == 413
        assert client.classify(png(0)).best.label == "0"
