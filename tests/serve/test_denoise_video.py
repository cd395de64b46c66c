"""The video route: clips in, clips out, and news on the way."""

import base64
import json
from fractions import Fraction
from pathlib import Path

import httpx
import numpy as np
import pytest

from skipvit.clips import plan_windows
from skipvit.manifest import Tiling
from tests.serve.clips import clip, decoded, gradient_frames, noise_frames
from tests.serve.servers import run
from tests.serve.video_denoisers import TILING, write_video_denoiser

ROUTE = "/v1/denoise/video"
MATROSKA = {"Content-Type": "video/x-matroska", "Accept": "video/x-matroska"}
LINES = {"Content-Type": "video/x-matroska", "Accept": "application/x-ndjson"}


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(("count", "height", "width"), [(12, 40, 70), (1, 1, 1), (7, 90, 21)])
def test_an_identity_returns_every_bit(video_url: str, method: str, count: int, height: int, width: int) -> None:
    frames = noise_frames(count, height, width)
    response = httpx.request(
        method, video_url + ROUTE, timeout=60, content=clip(frames), headers=MATROSKA, params={"sigma": "25"}
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


def test_a_form_and_the_default_type(video_url: str) -> None:
    frames = gradient_frames(6)
    files = {"video": ("pan.mkv", clip(frames), "video/x-matroska")}
    response = httpx.post(video_url + ROUTE, timeout=60, files=files, data={"sigma": "10", "model": "steady"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "video/mp4"
    got, _ = decoded(response.content)
    assert np.abs(got[4].astype(int) - frames[4]).mean() < 6


def test_uneven_times_and_the_aspect_of_pixels_come_back(video_url: str) -> None:
    stamps = [0, 40, 50, 400, 401, 1000]
    data = clip(gradient_frames(6), stamps=stamps, time_base=Fraction(1, 1000))
    response = httpx.post(video_url + ROUTE, timeout=60, content=data, headers={"Content-Type": "video/x-matroska"})
    assert response.headers["content-type"] == "video/mp4"
    assert [time * 1000 for time in decoded(response.content)[1]] == stamps


def test_the_model_is_told_sigma_and_measures_it_if_not(video_url: str) -> None:
    rng = np.random.default_rng(0)
    noisy = [np.clip(np.rint(128 + rng.normal(0, 30, (96, 96, 3))), 0, 255).astype(np.uint8) for _ in range(6)]
    for sigma in ("0", "12.4", "255"):
        params = {"model": "the-map", "sigma": sigma}
        response = httpx.post(video_url + ROUTE, timeout=60, content=clip(noisy), headers=MATROSKA, params=params)
        assert np.all(np.stack(decoded(response.content)[0]) == round(float(sigma)))
        assert "x-skipvit-note" not in response.headers
    response = httpx.post(
        video_url + ROUTE, timeout=60, content=clip(noisy), headers=MATROSKA, params={"model": "the-map"}
    )
    [measured] = np.unique(np.stack(decoded(response.content)[0]))
    assert measured == pytest.approx(30, abs=3)
    assert response.headers["x-skipvit-note"] == f"the noise was measured as sigma {measured}"


def test_every_frame_is_taken_from_its_place_in_its_window(video_url: str) -> None:
    frames = [np.full((20, 24, 3), 100 + t, np.uint8) for t in range(13)]
    response = httpx.post(
        video_url + ROUTE, timeout=60, content=clip(frames), headers=MATROSKA, params={"model": "the-places"}
    )
    wanted = []
    for window in plan_windows(13, TILING.frames, TILING.lead, TILING.lag):
        wanted += [100 + window.first + i + place for i, place in enumerate(range(TILING.frames)[window.kept])]
    assert [int(frame[7, 9, 1]) for frame in decoded(response.content)[0]] == wanted


def test_what_was_changed_is_said(video_url: str) -> None:
    data = clip(noise_frames(3), sound="pcm_s16le")
    response = httpx.post(video_url + ROUTE, timeout=60, content=data, headers=MATROSKA, params={"sigma": "5"})
    assert response.headers["x-skipvit-note"] == "the sound was dropped"


def test_news_while_it_is_worked_on(video_url: str) -> None:
    frames = noise_frames(12, 40, 70)
    with httpx.stream(
        "POST", video_url + ROUTE, timeout=60, content=clip(frames), headers=LINES, params={"sigma": "25"}
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


def test_large_tilings_and_small_clips(tmp_path: Path) -> None:
    write_video_denoiser(tmp_path, tiling=Tiling(tile=64, halo=16, multiple=16, frames=7, lead=3, lag=0))

    async def scenario(client: httpx.AsyncClient) -> None:
        for count in (6, 8, 20):
            frames = noise_frames(count, 9, 130)
            response = await client.post(ROUTE, content=clip(frames), headers=MATROSKA)
            assert all(np.array_equal(a, b) for a, b in zip(decoded(response.content)[0], frames, strict=True))

    run(tmp_path, scenario)
