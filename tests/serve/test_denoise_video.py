"""The video route: clips in, clips out, news on the way, and plain errors for whatever is no clip."""

import asyncio
import base64
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serve.cli import main
from serve.engine import OnnxCpuEngine
from serve.repository import Repository, ServedModel
from serve.settings import Settings
from skipvit.artifacts import read_entry
from skipvit.clips import plan_windows
from skipvit.manifest import Tiling
from tests.serve.clips import changing_size, clip, decoded, gradient_frames, million_frames, noise_frames
from tests.serve.servers import HeldEngine, in_process, over_socket, png, wait_until, write_model
from tests.serve.video_denoisers import TILING, write_video_denoiser

ROUTE = "/v1/denoise/video"
MATROSKA = {"Content-Type": "video/x-matroska", "Accept": "video/x-matroska"}
LINES = {"Content-Type": "video/x-matroska", "Accept": "application/x-ndjson"}
SETTINGS = Settings(decode_threads=1, tile_threads=2, access_log=False)
Scenario = Callable[[httpx.AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder)
    write_video_denoiser(folder, "steady", "identity")
    write_video_denoiser(folder, "the-map", "map")
    write_video_denoiser(folder, "the-places", "places")
    return folder


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with over_socket(Repository.open(root, SETTINGS), SETTINGS) as url:
        yield url


def run(root: Path, scenario: Scenario, settings: Settings = SETTINGS) -> None:
    async def main() -> None:
        async with in_process(Repository.open(root, settings), settings) as client:
            await scenario(client)

    asyncio.run(main())


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


# --- what comes back ---


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(("count", "height", "width"), [(12, 40, 70), (1, 1, 1), (7, 90, 21)])
def test_an_identity_returns_every_bit(url: str, method: str, count: int, height: int, width: int) -> None:
    frames = noise_frames(count, height, width)
    response = httpx.request(
        method, url + ROUTE, timeout=60, content=clip(frames), headers=MATROSKA, params={"sigma": "25"}
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "video/x-matroska"
    assert response.headers["x-skipvit-model"] == "steady/1"
    assert "x-skipvit-note" not in response.headers
    stages = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert stages == ["read", "decode", "queue", "denoise", "encode", "total"]
    got, times = decoded(response.content)
    assert len(got) == count
    assert all(np.array_equal(one, other) for one, other in zip(got, frames, strict=True))
    assert [round(time * 25, 3) for time in times] == list(range(count))


def test_a_form_and_the_default_type(url: str) -> None:
    frames = gradient_frames(6)
    files = {"video": ("pan.mkv", clip(frames), "video/x-matroska")}
    response = httpx.post(url + ROUTE, timeout=60, files=files, data={"sigma": "10", "model": "steady"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "video/mp4"
    got, _ = decoded(response.content)
    assert np.abs(got[4].astype(int) - frames[4]).mean() < 6


def test_uneven_times_and_the_aspect_of_pixels_come_back(url: str) -> None:
    stamps = [0, 40, 50, 400, 401, 1000]
    data = clip(gradient_frames(6), stamps=stamps, time_base=Fraction(1, 1000))
    response = httpx.post(url + ROUTE, timeout=60, content=data, headers={"Content-Type": "video/x-matroska"})
    assert response.headers["content-type"] == "video/mp4"
    assert [time * 1000 for time in decoded(response.content)[1]] == stamps


def test_the_model_is_told_sigma_and_measures_it_if_not(url: str) -> None:
    rng = np.random.default_rng(0)
    noisy = [np.clip(np.rint(128 + rng.normal(0, 30, (96, 96, 3))), 0, 255).astype(np.uint8) for _ in range(6)]
    for sigma in ("0", "12.4", "255"):
        params = {"model": "the-map", "sigma": sigma}
        response = httpx.post(url + ROUTE, timeout=60, content=clip(noisy), headers=MATROSKA, params=params)
        assert np.all(np.stack(decoded(response.content)[0]) == round(float(sigma)))
        assert "x-skipvit-note" not in response.headers
    response = httpx.post(url + ROUTE, timeout=60, content=clip(noisy), headers=MATROSKA, params={"model": "the-map"})
    [measured] = np.unique(np.stack(decoded(response.content)[0]))
    assert measured == pytest.approx(30, abs=3)
    assert response.headers["x-skipvit-note"] == f"the noise was measured as sigma {measured}"


def test_every_frame_is_taken_from_its_place_in_its_window(url: str) -> None:
    frames = [np.full((20, 24, 3), 100 + t, np.uint8) for t in range(13)]
    response = httpx.post(
        url + ROUTE, timeout=60, content=clip(frames), headers=MATROSKA, params={"model": "the-places"}
    )
    wanted = []
    for window in plan_windows(13, TILING.frames, TILING.lead, TILING.lag):
        wanted += [100 + window.first + i + place for i, place in enumerate(range(TILING.frames)[window.kept])]
    assert [int(frame[7, 9, 1]) for frame in decoded(response.content)[0]] == wanted


def test_what_was_changed_is_said(url: str) -> None:
    data = clip(noise_frames(3), sound="pcm_s16le")
    response = httpx.post(url + ROUTE, timeout=60, content=data, headers=MATROSKA, params={"sigma": "5"})
    assert response.headers["x-skipvit-note"] == "the sound was dropped"


def test_news_while_it_is_worked_on(url: str) -> None:
    frames = noise_frames(12, 40, 70)
    with httpx.stream(
        "POST", url + ROUTE, timeout=60, content=clip(frames), headers=LINES, params={"sigma": "25"}
    ) as response:
        assert response.status_code == 200
        assert response.headers["x-skipvit-model"] == "steady/1"
        lines = [json.loads(line) for line in response.iter_lines()]
    *news, last = lines
    assert [line["frames"] for line in news] == [12] * len(news)
    assert len(news) == len(plan_windows(12, TILING.frames, TILING.lead, TILING.lag))
    assert [line["done"] for line in news] == sorted(line["done"] for line in news)
    assert news[-1]["done"] == 12
    assert last["type"] == "video/mp4"
    assert last["sigma"] == 25
    assert set(last["timing_ms"]) == {"read", "decode", "queue", "denoise", "encode", "total"}
    assert len(decoded(base64.b64decode(last["clip"]))[0]) == 12


# --- what goes wrong ---

BAD = [
    (b"", 400, "empty_video"),
    (b"no clip", 400, "not_a_video"),
    (png(), 400, "not_a_video"),
    (clip(noise_frames(4))[:-300], 400, "truncated_video"),
    (clip(gradient_frames(4), "mp4", "libx264", "yuv420p", rate=1000), 400, "bad_frame_rate"),
    (changing_size(), 400, "size_changes"),
    (clip(noise_frames(21)), 413, "too_many_frames"),
    (clip(noise_frames(1, 120, 100)), 413, "video_too_large"),
    (clip(noise_frames(20, 90, 90)), 413, "video_too_large"),
    (million_frames(2_000_000), 400, "bad_video"),
]


@pytest.mark.parametrize("accept", ["video/mp4", "application/x-ndjson"])
def test_bad_clips_get_plain_errors(root: Path, accept: str) -> None:
    limits = Settings(max_video_frames=20, max_video_frame_pixels=10_000, max_video_pixels=100_000, tile_threads=1)
    headers = {"Content-Type": "video/mp4", "Accept": accept}

    async def scenario(client: httpx.AsyncClient) -> None:
        for data, status, code in BAD:
            response = await client.post(ROUTE, content=data, headers=headers)
            if response.status_code != 200:
                assert response.status_code == status
                problem = response.json()
            else:  # some things show only when windows are finished and the stream has begun
                assert (accept, status) == ("application/x-ndjson", 413)
                *_, problem = lines_of(response)
            assert problem["error"]["code"] == code
            assert problem["id"] == response.headers["x-request-id"]
            assert len(problem["error"]["hint"]) > 10
        good = await client.post(ROUTE, content=clip(noise_frames(2)), headers=MATROSKA)
        assert good.status_code == 200, "the server is unharmed"

    run(root, scenario, limits)


def test_what_is_no_clip_costs_no_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr("serve.restore_clip.ClipReader", fail)

    async def scenario(client: httpx.AsyncClient) -> None:
        for junk, code in ((b"junk" * 99, "not_a_video"), (png(), "not_a_video"), (clip(noise_frames(3))[:-9], None)):
            answer = await client.post(ROUTE, content=junk, headers=MATROSKA)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == (code or "truncated_video")

    run(root, scenario)


@pytest.mark.parametrize(
    ("params", "headers", "status", "code"),
    [
        ({"sigma": "nan"}, {}, 422, "bad_field"),
        ({"sigma": "-1"}, {}, 422, "bad_field"),
        ({"sigma": "256"}, {}, 422, "bad_field"),
        ({"sigma": "inf"}, {}, 422, "bad_field"),
        ({"sigma": "loud"}, {}, 422, "bad_field"),
        ({"quality": "5"}, {}, 422, "unknown_field"),
        ({"model": "shades"}, {}, 422, "wrong_task"),
        ({"model": "stead"}, {}, 404, "unknown_model"),
        ({}, {"Accept": "video/webm"}, 406, "not_acceptable"),
        ({}, {"Content-Type": "image/png"}, 415, "wrong_content_type"),
        ({}, {"Content-Type": "application/json"}, 415, "wrong_content_type"),
    ],
)
def test_bad_parameters_get_plain_errors(
    url: str, params: dict[str, str], headers: dict[str, str], status: int, code: str
) -> None:
    response = httpx.post(
        url + ROUTE, timeout=60, content=clip(noise_frames(2)), params=params, headers={**MATROSKA, **headers}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_lossless_answer_over_its_cap_is_refused(root: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        data = clip(gradient_frames(8), "mp4", "libx264", "yuv420p")
        response = await client.post(ROUTE, content=data, headers=MATROSKA)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "answer_too_large")

    run(root, scenario, Settings(max_video_answer_bytes=3000, tile_threads=1))


def test_without_a_video_model_the_route_says_so(tmp_path: Path) -> None:
    write_model(tmp_path)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(ROUTE, content=clip(noise_frames(2)), headers=MATROSKA)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "no_model")

    run(tmp_path, scenario)


# --- beside others ---


def held(root: Path, settings: Settings) -> tuple[Repository, HeldEngine]:
    """A repository of the classifier and an identity for video that waits at its gate."""
    classifier, video = read_entry(root, "shades"), read_entry(root, "steady")
    engine = HeldEngine(OnnxCpuEngine.from_entry(video))
    shades = ServedModel(classifier, OnnxCpuEngine.from_entry(classifier), settings, 10)
    return Repository([shades, ServedModel(video, engine, settings)]), engine


def test_two_clips_and_pictures_at_once(root: Path) -> None:
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

    run(root, scenario)


def test_pictures_pass_a_clip_that_is_held_up(root: Path) -> None:
    repository, engine = held(root, SETTINGS)

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


def test_more_clips_than_allowed_are_told_to_come_back(root: Path) -> None:
    settings = Settings(max_videos=1, tile_threads=1)
    repository, engine = held(root, settings)

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
def test_a_client_that_hangs_up_stops_the_work(root: Path, accept: str) -> None:
    settings = Settings(max_videos=1, tile_threads=1, access_log=False)
    repository, engine = held(root, settings)
    data = clip(noise_frames(200, 64, 64))
    with over_socket(repository, settings) as url:
        address = httpx.URL(url)
        headers = {"Content-Type": "video/x-matroska", "Accept": accept}
        lines = [f"{name}: {value}" for name, value in {**headers, "Host": "x", "Content-Length": len(data)}.items()]
        engine.gate.clear()
        with socket.create_connection((address.host, address.port or 80)) as client:
            client.sendall("\r\n".join([f"POST {ROUTE} HTTP/1.1", *lines, "\r\n"]).encode() + data)
            wait_until(lambda: engine.entered > engine.seen, 60)
        wait_until(lambda: "skipvit_cancelled_total 1.0" in httpx.get(url + "/metrics").text, 60)
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
def test_the_end_of_the_drain_is_told_to_who_waits(root: Path, accept: str) -> None:
    repository, engine = held(root, SETTINGS)

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


class Breaking:
    """An engine that fails from its second window on."""

    def __init__(self, engine: OnnxCpuEngine) -> None:
        self.engine = engine
        self.rows_left = 10_000

    def run(self, batch: Any) -> Any:
        self.rows_left -= len(batch)
        if self.rows_left < 0:
            raise RuntimeError("broken")
        return self.engine.run(batch)

    def close(self) -> None:
        self.engine.close()


@pytest.mark.parametrize("accept", ["video/mp4", "application/x-ndjson"])
def test_an_engine_that_fails_in_the_middle(root: Path, accept: str) -> None:
    entry = read_entry(root, "steady")
    engine = Breaking(OnnxCpuEngine.from_entry(entry))
    repository = Repository([ServedModel(entry, engine, SETTINGS)])

    async def main() -> None:
        async with in_process(repository, SETTINGS) as client:
            engine.rows_left = 1  # the clip is one tile, so one row is one window
            headers = {"Content-Type": "video/x-matroska", "Accept": accept}
            response = await client.post(ROUTE, content=clip(noise_frames(12)), headers=headers)
            if accept == "video/mp4":
                assert response.status_code == 500
                error = response.json()
            else:
                assert response.status_code == 200
                *news, error = lines_of(response)
                assert [line["done"] for line in news] == [4]
            assert error["error"]["code"] == "engine_failed"
            assert error["id"] == response.headers["x-request-id"]

    asyncio.run(main())


def test_large_tilings_and_small_clips(tmp_path: Path) -> None:
    write_video_denoiser(tmp_path, tiling=Tiling(tile=64, halo=16, multiple=16, frames=7, lead=3, lag=0))

    async def scenario(client: httpx.AsyncClient) -> None:
        for count in (6, 8, 20):
            frames = noise_frames(count, 9, 130)
            response = await client.post(ROUTE, content=clip(frames), headers=MATROSKA)
            assert all(np.array_equal(a, b) for a, b in zip(decoded(response.content)[0], frames, strict=True))

    run(tmp_path, scenario)


def test_a_server_without_pyav_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serve.cli.find_spec", lambda _name: None)
    assert main([str(root)]) == 1
    said = capsys.readouterr().err
    assert "'steady'" in said
    assert "pip install 'skipvit[video]'" in said
