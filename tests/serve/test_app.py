"""Every route, in process: a client wired to the app without a socket."""

import asyncio
import base64
import io
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.app import create_app
from serve.engine import Rows
from serve.repository import Repository
from serve.settings import Settings
from skipvit.transforms import Pixels
from tests.serve.servers import CLASSES, encoded, held_repository, in_process, png

SETTINGS = Settings(decode_threads=2)
# A model runs in the decode threads, or in threads of its own.
BOTH_WAYS = pytest.mark.parametrize("engine_threads", [0, 2], ids=["lent hands", "own threads"])
PNG = {"Content-Type": "image/png"}


def run(root: Path, scenario: Callable[[httpx.AsyncClient], Awaitable[None]], settings: Settings = SETTINGS) -> None:
    async def main() -> None:
        async with in_process(Repository.open(root, settings), settings) as client:
            await scenario(client)

    asyncio.run(main())


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_raw_body(models_dir: Path, method: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.request(method, "/v1/classify?top_k=3", content=png(255), headers=PNG)
        assert response.status_code == 200
        answer = response.json()
        assert answer["model"] == {"name": "shades", "version": "1"}
        assert answer["id"] == response.headers["x-request-id"]
        [result] = answer["results"]
        assert result["file"] is None
        assert [p["label"] for p in result["predictions"]] == ["9", "8", "7"]
        assert [p["index"] for p in result["predictions"]] == [9, 8, 7]
        assert 0.99 < result["predictions"][0]["probability"] <= 1.0
        assert result["batch_size"] == 1
        assert set(result["timing_ms"]) == {"decode", "queue", "infer"}
        assert 0 <= answer["timing_ms"]["read"] <= answer["timing_ms"]["total"]

    run(models_dir, scenario)


def test_a_form_with_many_files_keeps_their_order(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        files = [("any", (f"{k}.png", png(k * 255 // 9), "image/png")) for k in (3, 9, 0, 6)]
        response = await client.post("/v1/classify", files=files, data={"top_k": "1", "model": "shades"})
        assert response.status_code == 200
        got = [(r["file"], r["predictions"][0]["label"]) for r in response.json()["results"]]
        assert got == [("3.png", "3"), ("9.png", "9"), ("0.png", "0"), ("6.png", "6")]

    run(models_dir, scenario)


def test_json_with_base64(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        white, black = (base64.b64encode(png(level)).decode() for level in (255, 0))
        one = await client.post("/v1/classify", json={"image": white, "top_k": 1})
        assert one.json()["results"][0]["predictions"][0]["label"] == "9"
        two = await client.post("/v1/classify", json={"images": [white, black]})
        assert [r["predictions"][0]["label"] for r in two.json()["results"]] == ["9", "0"]
        assert [len(r["predictions"]) for r in two.json()["results"]] == [5, 5]

    run(models_dir, scenario)


def test_top_k_beyond_the_classes_gives_all_of_them(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/classify?top_k=1000", content=png(), headers=PNG)
        predictions = response.json()["results"][0]["predictions"]
        assert len(predictions) == CLASSES
        assert sum(p["probability"] for p in predictions) == pytest.approx(1.0, abs=1e-4)

    run(models_dir, scenario)


def test_one_bad_file_among_many(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        good, bad = ("a.png", png(255)), ("b.png", b"no picture")
        response = await client.post("/v1/classify", files=[("f", good), ("f", bad), ("f", good)])
        assert response.status_code == 200
        first, second, third = response.json()["results"]
        assert first["predictions"] == third["predictions"]
        assert second["file"] == "b.png"
        assert second["error"]["code"] == "not_an_image"
        assert "predictions" not in second
        response = await client.post("/v1/classify", files=[("f", bad), ("f", bad)])
        assert response.status_code == 400
        assert "'b.png'" in response.json()["error"]["message"]

    run(models_dir, scenario)


ERRORS = [
    ({"content": b"", "headers": PNG}, 400, "empty_image"),
    ({"content": b"text", "headers": {"Content-Type": "image/jpeg"}}, 400, "not_an_image"),
    ({"content": png()[:50], "headers": PNG}, 400, "truncated_image"),
    ({"content": png(), "headers": PNG, "params": {"model": "shade"}}, 404, "unknown_model"),
    ({"content": png(), "headers": PNG, "params": {"top_k": "x"}}, 422, "bad_field"),
    ({"content": png(), "headers": PNG, "params": {"topk": "3"}}, 422, "unknown_field"),
    ({"content": png(), "headers": PNG, "params": [("top_k", "3")] * 20}, 422, "bad_query"),
    ({"content": png(), "headers": {"Content-Type": "text/plain"}}, 415, "wrong_content_type"),
    ({"content": png(), "headers": {**PNG, "Content-Encoding": "gzip"}}, 415, "wrong_content_encoding"),
    ({"content": bytes(3000), "headers": PNG}, 413, "body_too_large"),
    ({"content": png(size=(40, 30)), "headers": PNG}, 413, "image_too_large"),
    ({"files": [("f", ("a", b"x"))] * 4}, 413, "too_many_files"),
    ({"json": {"image": "???"}}, 422, "bad_base64"),
    ({"json": {}}, 422, "missing_image"),
]


@pytest.mark.parametrize(
    ("request_", "status", "code"), ERRORS, ids=[f"{e[1]}-{e[2]}-{i}" for i, e in enumerate(ERRORS)]
)
def test_errors_say_what_to_do(models_dir: Path, request_: dict[str, object], status: int, code: str) -> None:
    settings = Settings(decode_threads=1, max_body_bytes=2500, max_pixels=1000, max_files=3)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/classify", **request_)  # type: ignore[arg-type]
        assert response.status_code == status
        body = response.json()
        assert set(body) == {"error", "id"}
        assert set(body["error"]) == {"code", "message", "hint"}
        assert body["error"]["code"] == code
        assert len(body["error"]["hint"]) > 10
        assert body["id"] == response.headers["x-request-id"]
        # The server is unharmed.
        assert (await client.post("/v1/classify", content=png(), headers=PNG)).status_code == 200

    run(models_dir, scenario, settings)


def test_an_unknown_model_gets_the_nearest_name(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/classify?model=shade", content=png(), headers=PNG)
        assert "did you mean 'shades'?" in response.json()["error"]["hint"]

    run(models_dir, scenario)


def test_unknown_paths_and_methods(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.get("/v1/clasify")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "unknown_path"
        assert "did you mean '/v1/classify'?" in response.json()["error"]["hint"]
        assert response.json()["error"]["hint"].count("/livez") == 1
        response = await client.get("/v1/classify")
        assert response.status_code == 405
        assert set(response.headers["allow"].split(", ")) == {"POST", "PUT"}
        assert response.json()["error"]["code"] == "wrong_method"
        assert (await client.delete("/livez")).status_code == 405

    run(models_dir, scenario)


def test_probes_and_models(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for path in ("/livez", "/readyz"):
            assert (await client.get(path)).json() == {"status": "ready"}
            head = await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
        denoiser, model = (await client.get("/v1/models")).json()["models"]
        assert model["name"] == "shades"
        assert model["labels"] == [str(k) for k in range(CLASSES)]
        assert model["input"] == {"height": 8, "width": 8, "resize": "squash"}
        assert model["classes"] == CLASSES
        assert model["macs"] == 192
        assert (model["task"], model["tiling"], model["samples"]) == ("classification", None, [])
        assert (denoiser["task"], denoiser["input"], denoiser["classes"], denoiser["labels"]) == (
            "denoising",
            None,
            0,
            [],
        )
        assert denoiser["tiling"] == {"tile": 64, "halo": 8, "multiple": 8, "frames": 1, "lead": 0, "lag": 0}
        [sample] = denoiser["samples"]
        picture = await client.get(sample)
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
        assert Image.open(io.BytesIO(picture.content)).getpixel((0, 0)) == (90, 90, 90)
        assert (await client.head(sample)).status_code == 200
        for url, code in (("/v1/models/x/samples/y", "unknown_model"), (sample + "x", "unknown_sample")):
            missing = await client.get(url)
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, code)

    run(models_dir, scenario)


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
def test_a_dead_engine_is_not_ready_and_not_live(models_dir: Path, engine_threads: int) -> None:
    settings = Settings(decode_threads=2, engine_threads=engine_threads)

    async def main() -> None:
        repository, engine = held_repository(models_dir, settings)
        async with in_process(repository, settings) as client:

            def die(batch: Pixels) -> Rows:
                raise SystemExit("out of memory, say")

            engine.run = die  # type: ignore[method-assign]
            response = await client.post("/v1/classify", content=png(), headers=PNG)
            assert response.status_code == 503
            assert "out of service" in response.json()["error"]["message"]
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/livez")).status_code == 503
            assert 'skipvit_model_ready{model="shades"} 0.0' in (await client.get("/metrics")).text
            assert (await client.post("/v1/classify", content=png(), headers=PNG)).status_code == 503

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


def test_request_ids_are_kept_if_plain_and_replaced_if_not(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for given, kept in (("abc-1.2_3", True), ("x" * 65, False), ("a b", False), ("é", False), ("", False)):
            response = await client.get("/livez", headers={"X-Request-ID": given.encode()})  # type: ignore[dict-item]
            assert (response.headers["x-request-id"] == given) is kept
            assert response.headers["x-request-id"].isascii()

    run(models_dir, scenario)


def test_metrics_have_bounded_labels(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        await client.post("/v1/classify", content=png(), headers=PNG)
        await client.post("/v1/classify", content=b"bad", headers=PNG)
        for i in range(20):
            await client.post(f"/v1/classify?model=made-up-{i}", content=png(), headers=PNG)
            await client.get(f"/made/up/{i}")
        text = (await client.get("/metrics")).text
        ok = 'skipvit_requests_total{model="shades",outcome="ok",route="/v1/classify",version="1"} 1.0'
        assert ok in text
        assert 'outcome="client_error",route="/v1/classify",version="1"} 1.0' in text
        assert 'skipvit_requests_total{model="",outcome="client_error",route="other",version=""} 20.0' in text
        assert "made-up" not in text
        assert "/made/up" not in text
        for stage in ("read", "decode", "queue", "infer", "total"):
            assert f'skipvit_stage_seconds_count{{stage="{stage}"}}' in text
        for name in (
            'skipvit_batch_size_count{model="shades"} 1.0',
            'skipvit_batches_total{model="shades",reason="idle"} 1.0',
            'skipvit_queue_images{model="shades"} 0.0',
            'skipvit_model_ready{model="shades"} 1.0',
            "skipvit_inflight_requests 1.0",
            "skipvit_cancelled_total 0.0",
            "process_resident_memory_bytes",
        ):
            assert name in text

    run(models_dir, scenario)


def test_the_page_and_its_assets_come_from_here_alone(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for path, kind in (
            ("/", "text/html"),
            ("/docs", "text/html"),
            ("/page/page.js", "text/javascript"),
            *(
                (f"/page/{name}.js", "text/javascript")
                for name in ("answer", "ask", "compare", "docs", "draw", "parts")
            ),
            ("/page/page.css", "text/css"),
            ("/page/favicon.svg", "image/svg+xml"),
            ("/favicon.ico", "image/svg+xml"),
        ):
            response = await client.get(path)
            assert response.status_code == 200, path
            assert response.headers["content-type"].startswith(kind)
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert response.headers["x-content-type-options"] == "nosniff"
            assert "://" not in response.text.replace("http://www.w3.org/2000/svg", ""), path
            again = await client.get(path, headers={"If-None-Match": response.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert (await client.head(path)).headers["etag"] == response.headers["etag"]

    run(models_dir, scenario)


@BOTH_WAYS
def test_64_at_once_with_one_bad_among_them(models_dir: Path, engine_threads: int) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        bodies = [png(255 * (k % 10) // 9) for k in range(64)]
        bodies[17] = b"not a picture"
        responses = await asyncio.gather(*(client.post("/v1/classify", content=body, headers=PNG) for body in bodies))
        assert [r.status_code for r in responses] == [200] * 17 + [400] + [200] * 46
        labels = [r.json()["results"][0]["predictions"][0]["label"] for r in responses if r.status_code == 200]
        assert labels == [str(k % 10) for k in range(64) if k != 17]

    run(models_dir, scenario, Settings(decode_threads=2, engine_threads=engine_threads))


def corpus() -> dict[str, tuple[bytes, int]]:
    """The bad and odd pictures of the field, each with the status it deserves."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("L", (8, 8), 90 * k) for k in range(3)]
    return {
        "truncated": (encoded(noise)[:3000], 400),
        "zero-byte": (b"", 400),
        "16-bit": (encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16))), 200),
        "CMYK": (encoded(Image.new("CMYK", (9, 9), (9, 9, 9, 9)), "JPEG"), 200),
        "palette": (encoded(noise.convert("P")), 200),
        "alpha": (encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 4))), 200),
        "animated": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 413),
        "EXIF-rotated": (encoded(noise, "JPEG", exif=exif), 200),
        "text as JPEG": (b"GIF or JPEG? neither", 400),
        "bomb": (encoded(Image.new("1", (8000, 8000))), 413),
    }


def test_bad_pictures_with_good_batch_mates(models_dir: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        pictures = corpus()
        alone = await asyncio.gather(
            *(client.post("/v1/classify", content=data, headers=PNG) for data, _ in pictures.values())
        )
        assert {name: r.status_code for name, r in zip(pictures, alone, strict=True)} == {
            name: status for name, (_, status) in pictures.items()
        }
        mates = [("f", (f"mate{k}.png", png(255 * k // 9))) for k in range(6)]
        files = [*mates[:3], *(("f", (name, data)) for name, (data, _) in pictures.items()), *mates[3:]]
        response = await client.post("/v1/classify", files=files)
        assert response.status_code == 200
        results = {r["file"]: r for r in response.json()["results"]}
        assert [results[f"mate{k}.png"]["predictions"][0]["label"] for k in range(6)] == list("012345")
        for name, (_, status) in pictures.items():
            assert ("error" in results[name]) is (status != 200), name
            assert name in results[name].get("error", {"message": name})["message"]

    run(models_dir, scenario, Settings(decode_threads=2, max_files=20))
