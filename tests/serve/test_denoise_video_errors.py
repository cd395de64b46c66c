"""The video route in trouble: plain errors for whatever is no clip, bad parameters, and engines that fail."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.cli import main
from serve.engines.engine import OnnxCpuEngine
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.settings import Settings
from skipvit.artifacts import read_entry
from tests.serve.clips import changing_size, clip, gradient_frames, million_frames, noise_frames
from tests.serve.servers import in_process, png, run, write_model

ROUTE = "/v1/denoise/video"
MATROSKA = {"Content-Type": "video/x-matroska", "Accept": "video/x-matroska"}
SETTINGS = Settings(decode_threads=1, tile_threads=2, access_log=False)


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


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
def test_bad_clips_get_plain_errors(video_models: Path, accept: str) -> None:
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

    run(video_models, scenario, limits)


def test_what_is_no_clip_costs_no_process(video_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr("serve.video.restore_clip.ClipReader", fail)

    async def scenario(client: httpx.AsyncClient) -> None:
        for junk, code in ((b"junk" * 99, "not_a_video"), (png(), "not_a_video"), (clip(noise_frames(3))[:-9], None)):
            answer = await client.post(ROUTE, content=junk, headers=MATROSKA)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == (code or "truncated_video")

    run(video_models, scenario)


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
    video_url: str, params: dict[str, str], headers: dict[str, str], status: int, code: str
) -> None:
    response = httpx.post(
        video_url + ROUTE, timeout=60, content=clip(noise_frames(2)), params=params, headers={**MATROSKA, **headers}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_lossless_answer_over_its_cap_is_refused(video_models: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        data = clip(gradient_frames(8), "mp4", "libx264", "yuv420p")
        response = await client.post(ROUTE, content=data, headers=MATROSKA)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "answer_too_large")

    run(video_models, scenario, Settings(max_video_answer_bytes=3000, tile_threads=1))


def test_without_a_video_model_the_route_says_so(tmp_path: Path) -> None:
    write_model(tmp_path)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(ROUTE, content=clip(noise_frames(2)), headers=MATROSKA)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "no_model")

    run(tmp_path, scenario)


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
def test_an_engine_that_fails_in_the_middle(video_models: Path, accept: str) -> None:
    entry = read_entry(video_models, "steady")
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


def test_a_server_without_pyav_says_what_to_install(
    video_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serve.tasks.find_spec", lambda _name: None)
    assert main([str(video_models)]) == 1
    said = capsys.readouterr().err
    assert "'steady'" in said
    assert "pip install 'skipvit[video]'" in said
