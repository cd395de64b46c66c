"""POST and PUT /v1/classify, in process: the ways to ask, many at once, and what is refused."""

import asyncio
import base64
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.settings import Settings
from tests.serve.servers import CLASSES, encoded, png, run

# A model runs in the decode threads, or in threads of its own.
BOTH_WAYS = pytest.mark.parametrize("engine_threads", [0, 2], ids=["lent hands", "own threads"])
PNG = {"Content-Type": "image/png"}


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
