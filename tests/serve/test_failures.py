"""What the server says while it cannot answer: warming, draining, broken, or full."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from serve.app import create_app
from serve.engines.engine import Rows
from serve.models.repository import Repository
from serve.settings import Settings
from skipvit.transforms import Pixels
from tests.serve.servers import held_repository, in_process, png, run

SETTINGS = Settings(decode_threads=2)
# A model runs in the decode threads, or in threads of its own.
BOTH_WAYS = pytest.mark.parametrize("engine_threads", [0, 2], ids=["lent hands", "own threads"])
PNG = {"Content-Type": "image/png"}


def test_not_ready_until_warm_and_again_while_draining(models_dir: Path) -> None:
    async def main() -> None:
        repository, engine = held_repository(models_dir, SETTINGS)
        engine.gate.clear()  # warm-up hangs
        app = create_app(SETTINGS, repository)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            assert (await client.get("/livez")).status_code == 200
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()) == (503, {"status": "warming"})
            refused = await client.post("/v1/classify", content=png(), headers=PNG)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["message"] == "the models are warming up"
            engine.gate.set()
            while repository.state == "warming":
                await asyncio.sleep(0.005)
            assert (await client.get("/readyz")).status_code == 200
            repository.drain()
            assert (await client.get("/readyz")).json() == {"status": "draining"}
            # What still comes before the balancer has noticed is answered.
            assert (await client.post("/v1/classify", content=png(), headers=PNG)).status_code == 200
        assert repository.state == "closed"

    asyncio.run(main())


@BOTH_WAYS
def test_an_engine_error_is_a_500_without_internals(models_dir: Path, engine_threads: int) -> None:
    settings = Settings(decode_threads=2, engine_threads=engine_threads)

    async def main() -> None:
        repository, engine = held_repository(models_dir, settings)
        async with in_process(repository, settings) as client:

            def fail(batch: Pixels) -> Rows:
                raise RuntimeError("secret detail of /etc/passwd")

            works, engine.run = engine.run, fail  # type: ignore[method-assign]
            response = await client.post("/v1/classify", content=png(), headers=PNG)
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "engine_failed"
            assert "secret" not in response.text
            engine.run = works  # type: ignore[method-assign]
            assert (await client.post("/v1/classify", content=png(), headers=PNG)).status_code == 200

    asyncio.run(main())


def test_the_engines_own_time_is_told_apart(models_dir: Path) -> None:
    """An engine that sleeps 30 ms: those are in `infer` and in the total, and not in what came before."""

    async def main() -> None:
        repository, engine = held_repository(models_dir, SETTINGS)
        async with in_process(repository, SETTINGS) as client:
            works = engine.run

            def slow(batch: Pixels) -> Rows:
                time.sleep(0.03)
                return works(batch)

            engine.run = slow  # type: ignore[method-assign]
            answer = (await client.post("/v1/classify", content=png(), headers=PNG)).json()
            [result] = answer["results"]
            assert 30 <= result["timing_ms"]["infer"] <= answer["timing_ms"]["total"]
            before = answer["timing_ms"]["read"] + result["timing_ms"]["decode"] + result["timing_ms"]["queue"]
            assert before <= answer["timing_ms"]["total"] - 30

    asyncio.run(main())


def test_our_own_mistake_is_a_500_without_internals(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("serve.intake.parse_upload", broken)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/classify", content=png(), headers={**PNG, "X-Request-ID": "find-me"})
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"
        assert "secret" not in response.text
        assert response.headers["x-request-id"] == "find-me"
        assert "request find-me failed" in caplog.text

    run(models_dir, scenario)


def test_overload_is_a_429_with_advice(models_dir: Path) -> None:
    settings = Settings(decode_threads=1, engine_threads=1, max_in_flight=3, max_files=3)

    async def main() -> None:
        repository, engine = held_repository(models_dir, settings)
        async with in_process(repository, settings) as client:
            engine.gate.clear()
            warm_runs = engine.entered
            post = lambda: client.post("/v1/classify", content=png(), headers=PNG)  # noqa: E731
            waiting = [asyncio.create_task(post()) for _ in range(3)]
            while engine.entered - warm_runs + repository.models["shades"].batcher.waiting < 3:
                await asyncio.sleep(0.005)
            refused = await post()
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            error = refused.json()["error"]
            assert error["code"] == "overloaded"
            assert error["message"] == "3 pictures are in flight and 1 more came, the limit is 3"
            assert "try again in 1 s" in error["hint"]
            engine.gate.set()
            assert [(await task).status_code for task in waiting] == [200, 200, 200]
            assert (await post()).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert 'skipvit_rejected_total{reason="overloaded"} 1.0' in metrics

    asyncio.run(main())


def test_a_full_server_looks_at_nothing_of_a_request(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(decode_threads=1, engine_threads=1, max_in_flight=1, max_files=1)

    async def main() -> None:
        repository, engine = held_repository(models_dir, settings)
        async with in_process(repository, settings) as client:
            engine.gate.clear()
            engine.entered = 0
            held = asyncio.create_task(client.post("/v1/classify", content=png(), headers=PNG))
            async with asyncio.timeout(30):
                while not engine.entered:
                    await asyncio.sleep(0.005)
            wrong = {"params": {"nonsense": "1"}, "headers": {"Content-Encoding": "br"}}
            full = await client.post("/v1/classify", **wrong)
            assert (full.status_code, full.json()["error"]["code"]) == (429, "overloaded")
            assert full.json()["id"] == full.headers["x-request-id"]
            with monkeypatch.context() as failed:
                failed.setattr(Repository, "refusal", "a model failed")
                down = await client.post("/v1/classify", content=png(), headers=PNG)
                assert down.json()["error"]["message"] == "a model failed", "to come again soon would be of no use"
            engine.gate.set()
            assert (await held).status_code == 200

    asyncio.run(main())
