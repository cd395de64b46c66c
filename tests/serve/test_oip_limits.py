"""The door of the Open Inference Protocol under load and under attack: places, batches, bombs, damaged requests."""

import asyncio
import gzip
import random
import threading
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from serve.app import create_app
from serve.oip import infer as oip_infer
from serve.oip.messages import parse_request
from serve.settings import Settings
from tests.serve.denoisers import held_denoiser, write_denoiser
from tests.serve.oip_asking import INVERSE, LENGTH, SHADES, answered, ask, asked, levels, said
from tests.serve.servers import held_repository, in_process, png, run, wait_until, write_model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier and a denoiser."""
    root = tmp_path_factory.mktemp("oip-limits")
    write_model(root)
    write_denoiser(root, "inverse", "inverse")
    return root


def test_large_json_is_parsed_one_at_a_time_whoever_gives_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes many times its size in memory, and a thread does not end when its request does."""
    gate, begun = threading.Event(), []

    def held(raw: bytes, length: int | None) -> Any:
        begun.append(len(raw))
        assert gate.wait(30)
        return parse_request(raw, length)

    monkeypatch.setattr(oip_infer, "parse_request", held)
    body, headers = asked(levels(0), binary=False)
    body = b" " * (256 << 10) + body

    async def scenario(client: httpx.AsyncClient) -> None:
        try:
            for _ in range(3):
                late = await ask(client, SHADES, body, {**headers, "X-Request-Timeout": "0.1"})
                assert late.status_code == 504
            assert len(begun) <= 1, "on a slow machine none got so far"
        finally:
            gate.set()
        assert (await ask(client, SHADES, body, headers)).status_code == 200

    run(root, scenario, Settings(decode_threads=1, tile_threads=1))


def test_a_bomb_is_not_unpacked(root: Path) -> None:
    bomb = zlib.compress(bytes(8 << 20), 9)
    settings = Settings(decode_threads=1, tile_threads=1, max_body_bytes=1 << 20)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await ask(client, SHADES, bomb, {"Content-Encoding": "deflate"})
        assert "becomes more than 1048576 bytes" in said(response, 413)
        assert "skipvit_rejected_total" in (await client.get("/metrics")).text

    run(root, scenario, settings)
    small = Settings(decode_threads=1, tile_threads=1, max_buffered_bytes=1 << 20)

    async def crowded(client: httpx.AsyncClient) -> None:
        for _ in range(3):  # what was taken is given back
            response = await ask(client, SHADES, bomb, {"Content-Encoding": "deflate"})
            assert "bytes of request bodies are held" in said(response, 429)
            assert int(response.headers["retry-after"]) >= 1
        assert (await ask(client, SHADES, *asked(levels(0)))).status_code == 200

    run(root, crowded, small)


def test_rows_share_batches_and_places_with_other_routes(root: Path) -> None:
    settings = Settings(engine_threads=1, decode_threads=2, max_in_flight=8, max_files=4, batch_budget_ms=1000)
    repository, engine = held_repository(root, settings)

    async def main() -> None:
        async with in_process(repository, settings) as client:
            engine.gate.clear()
            first = asyncio.create_task(client.post("/v1/classify", content=png(0)))
            await asyncio.to_thread(wait_until, lambda: engine.entered > engine.seen)
            rows = asyncio.create_task(ask(client, SHADES, *asked(levels(0, 128, 255))))
            native = asyncio.create_task(client.post("/v1/classify", content=png(255)))
            batcher = repository.models["shades"].batcher
            while batcher.waiting < 4:
                await asyncio.sleep(0.005)
            full = await ask(client, SHADES, *asked(levels(*range(4))))
            assert "5 pictures are in flight and 4 more came, the limit is 8" in said(full, 429)
            assert int(full.headers["retry-after"]) >= 1
            engine.gate.set()
            assert answered(await rows, "probabilities").argmax(1).tolist() == [0, 5, 9]
            [result] = (await native).json()["results"]
            assert result["batch_size"] == 4
            assert (await first).status_code == 200
            stats = (await client.get("/v2/models/shades/stats")).json()["model_stats"][0]
            assert (stats["inference_count"], stats["execution_count"]) == (3, 1)
            counts = {stage: took["count"] for stage, took in stats["inference_stats"].items()}
            assert (counts["success"], counts["fail"], counts["compute_infer"]) == (1, 1, 1)

    asyncio.run(main())


def test_rows_of_a_client_that_left_are_not_computed(root: Path) -> None:
    settings = Settings(engine_threads=1, decode_threads=1, max_wait_ms=0, max_batch=1)
    repository, engine = held_repository(root, settings)

    async def main() -> None:
        async with in_process(repository, settings) as client:
            before = engine.seen
            engine.gate.clear()
            rows = asyncio.create_task(ask(client, SHADES, *asked(levels(0, 128, 255))))
            batcher = repository.models["shades"].batcher
            while batcher.waiting != 2 or engine.entered == before:  # one runs, which is seen to its end
                await asyncio.sleep(0.005)
            rows.cancel()
            await asyncio.sleep(0.05)
            engine.gate.set()
            assert (await ask(client, SHADES, *asked(levels(0)))).status_code == 200
            assert engine.seen == before + 2  # the one that ran already, and the next client's

    asyncio.run(main())


def test_places_of_denoisers_are_those_of_their_route(root: Path) -> None:
    settings = Settings(tile_threads=1, max_in_flight=2, max_files=2)
    repository, engine = held_denoiser(root, settings, "inverse")
    picture = asked(np.zeros((1, 20, 20, 3), np.uint8), "images")

    async def main() -> None:
        async with in_process(repository, settings) as client:
            engine.gate.clear()
            first = asyncio.create_task(client.post("/v1/denoise", content=png(0)))
            await asyncio.to_thread(wait_until, lambda: engine.entered > engine.seen)
            two = asked(np.zeros((2, 20, 20, 3), np.uint8), "images")
            assert "1 pictures are in flight and 2 more came" in said(await ask(client, INVERSE, *two), 429)
            second = asyncio.create_task(ask(client, INVERSE, *picture))
            await asyncio.sleep(0.05)
            assert "2 pictures are in flight" in said(await ask(client, INVERSE, *picture), 429)
            engine.gate.set()
            assert answered(await second, "denoised").min() == 255
            assert (await first).status_code == 200

    asyncio.run(main())


def test_a_row_that_the_engine_fails_on_fails_its_request_alone(root: Path) -> None:
    settings = Settings(engine_threads=1, decode_threads=1)
    repository, engine = held_repository(root, settings)
    run_held = engine.run

    def run_unless_bad(batch: Any) -> Any:
        if (batch[:, 0, 0, 0] == 13).any():
            raise ValueError("a secret of the engine")
        return run_held(batch)

    engine.run = run_unless_bad  # type: ignore[method-assign]  # the engine that breaks

    async def main() -> None:
        async with in_process(repository, settings) as client:
            engine.gate.clear()
            held = asyncio.create_task(ask(client, SHADES, *asked(levels(0))))
            while not repository.models["shades"].batcher.alive or engine.entered == engine.seen:
                await asyncio.sleep(0.005)
            bad = asyncio.create_task(ask(client, SHADES, *asked(levels(255, 13))))
            good = asyncio.create_task(ask(client, SHADES, *asked(levels(255))))
            while repository.models["shades"].batcher.waiting < 3:
                await asyncio.sleep(0.005)
            engine.gate.set()
            text = said(await bad, 500)
            assert "model 'shades' failed on this picture" in text
            assert "secret" not in text
            for response, best in ((await held, 0), (await good, 9)):
                assert answered(response, "probabilities").argmax() == best

    asyncio.run(main())


def test_a_server_that_drains_says_so_and_answers(root: Path) -> None:
    settings = Settings(decode_threads=1)
    repository, _ = held_repository(root, settings)

    async def main() -> None:
        async with in_process(repository, settings) as client:
            repository.drain()
            for path in ("/v2/health/ready", "/v2/models/shades/ready"):
                response = await client.get(path)
                assert (response.status_code, response.json()["ready"]) == (503, False)
            listed = (await client.post("/v2/repository/index")).json()
            [model] = [one for one in listed if one["name"] == "shades"]
            assert (model["state"], model["reason"]) == ("UNAVAILABLE", "the server is draining")
            assert (await client.post("/v2/repository/index", content=b'{"ready": true}')).json() == []
            assert (await client.get("/v2/health/live")).json() == {"live": True}
            assert (await ask(client, SHADES, *asked(levels(0)))).status_code == 200

    asyncio.run(main())


def test_a_server_that_starts_says_so(root: Path) -> None:
    settings = Settings(decode_threads=1)
    repository, _ = held_repository(root, settings)

    async def main() -> None:
        transport = httpx.ASGITransport(create_app(settings, repository))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await ask(client, SHADES, *asked(levels(0)))
            assert "the server is starting" in said(response, 503)
            assert int(response.headers["retry-after"]) >= 1

    asyncio.run(main())
    repository.close()


def test_too_many_pixels(root: Path) -> None:
    settings = Settings(tile_threads=1, decode_threads=1, max_pixels=1000)

    async def scenario(client: httpx.AsyncClient) -> None:
        picture = asked(np.zeros((3, 20, 20, 3), np.uint8), "images")
        assert "have 1200 pixels, the limit is 1000" in said(await ask(client, INVERSE, *picture), 413)

    run(root, scenario, settings)


def test_a_fuzzed_door_stays_a_door(root: Path) -> None:
    """Thousands of damaged requests: each gets an answer or a refusal of the documented kind, and none is a 500."""
    chance = random.Random(0)
    seeds = [
        asked(levels(1, 2)),
        asked(levels(1), binary=False),
        asked(np.array([png(3)], object), datatype="BYTES"),
        asked(levels(1), outputs=[triton.InferRequestedOutput("probabilities", class_count=2)], request_id="r"),
    ]
    tokens = [b"-1", b"null", b"[]", b"{}", b"1e999", b"9" * 30, b'""', b"true", b"[[[[1]]]]", b"\xff", b"0"]

    def damaged() -> tuple[bytes, dict[str, str]]:
        body, headers = chance.choice(seeds)
        mutable, changed = bytearray(body), dict(headers)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(mutable) + 1)
            match chance.randrange(5):
                case 0:
                    mutable[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    mutable[at : at + chance.randrange(40)] = b""
                case 2:
                    mutable[at:at] = chance.choice(tokens)
                case 3:
                    numbers = [i for i, byte in enumerate(mutable[:200]) if chr(byte).isdigit()]
                    if numbers:
                        start = chance.choice(numbers)
                        mutable[start : start + 1] = chance.choice(tokens)
                case 4:
                    changed[LENGTH] = str(chance.choice([0, 1, len(mutable), chance.randrange(400), -1, 1 << 70]))
        if chance.random() < 0.1:
            return chance.choice([gzip.compress, zlib.compress])(bytes(mutable)), {
                **changed,
                "Content-Encoding": chance.choice(["gzip", "deflate"]),
            }
        return bytes(mutable), changed

    async def scenario(client: httpx.AsyncClient) -> None:
        seen: dict[int, int] = {}
        for _ in range(3000):
            response = await ask(client, SHADES, *damaged())
            seen[response.status_code] = seen.get(response.status_code, 0) + 1
            if response.status_code != 200:
                assert response.status_code in (400, 413), response.text
                said(response, response.status_code)
        assert seen[200] > 20
        assert seen[400] > 1000
        text = (await client.get("/metrics")).text
        assert "skipvit_inflight_requests 1.0" in text
        assert (await ask(client, SHADES, *asked(levels(*[0] * 16)))).status_code == 200

    run(root, scenario)
