"""POST /v2/models/{name}/infer in process: what is answered, and what is refused."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton

from serve.oip.compression import preferred_coding
from tests.serve.denoisers import write_denoiser
from tests.serve.oip_asking import INVERSE, LENGTH, SHADES, answered, ask, asked, levels, said
from tests.serve.servers import png, run, write_model
from tests.serve.video_denoisers import write_video_denoiser


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, denoisers of stills and of video, and a model whose engine breaks its promise."""
    root = tmp_path_factory.mktemp("oip")
    write_model(root)
    write_denoiser(root, "inverse", "inverse")
    write_denoiser(root, "soft", "blur")
    write_video_denoiser(root, "steady", "identity")
    return root


def test_probabilities_are_the_models_own(root: Path) -> None:
    session = onnxruntime.InferenceSession(root / "shades" / "1" / "model.onnx")
    rows = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    [expected] = session.run(["probabilities"], {"image": rows})

    async def scenario(client: httpx.AsyncClient) -> None:
        for binary in (True, False):
            found = answered(await ask(client, SHADES, *asked(rows, binary=binary)), "probabilities")
            assert found.dtype == np.float32
            assert np.allclose(found, expected, atol=1e-6)
        versioned = await ask(client, "/v2/models/shades/versions/1/infer", *asked(rows))
        assert np.allclose(answered(versioned, "probabilities"), expected, atol=1e-6)

    run(root, scenario)


def test_pictures_as_files_get_what_the_native_route_gives(root: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        pictures = np.array([[png(30, (40, 30))], [png(200)]], dtype=object)
        found = answered(await ask(client, SHADES, *asked(pictures, datatype="BYTES")), "probabilities")
        for row, picture in zip(found, pictures[:, 0], strict=True):
            native = await client.post("/v1/classify", content=picture)
            best = native.json()["results"][0]["predictions"][0]
            assert row.argmax() == best["index"]
            assert row.max() == pytest.approx(best["probability"], abs=1e-6)
        raw = await ask(client, SHADES, png(200), {LENGTH: "0"})
        assert np.array_equal(answered(raw, "probabilities")[0], found[1])

    run(root, scenario)


def test_denoisers_take_pictures_of_any_size(root: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for shape in ((1, 1, 1, 3), (3, 64, 64, 3), (2, 70, 131, 3)):
            pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            found = answered(await ask(client, INVERSE, *asked(pictures, "images")), "denoised")
            assert np.array_equal(found, 255 - pictures)
        clip = np.random.default_rng(0).integers(0, 256, (1, *await row_of(client, "steady")), dtype=np.uint8)
        found = answered(await ask(client, "/v2/models/steady/infer", *asked(clip, "clips")), "denoised")
        assert np.array_equal(found, clip[..., :3])

    run(root, scenario)


async def row_of(client: httpx.AsyncClient, model: str) -> list[int]:
    [one] = (await client.get(f"/v2/models/{model}")).json()["inputs"]
    assert one["name"] == "clips"
    row: list[int] = one["shape"][1:]
    return row


REFUSED: list[tuple[str, Any, dict[str, Any], int, str]] = [
    (SHADES, levels(1), {"name": "picture"}, 400, "unexpected inference input 'picture' for model 'shades'"),
    (SHADES, levels(1)[..., :1], {}, 400, "takes UINT8 [-1, 8, 8, 3] or BYTES [-1]"),
    (SHADES, levels(1)[0], {}, 400, "is UINT8 [8, 8, 3]"),
    (SHADES, levels(1)[:0], {}, 400, "-1 is any size from 1"),
    (SHADES, levels(1).astype(np.float32), {"datatype": "FP32"}, 400, "is FP32"),
    (SHADES, levels(*[1] * 17), {}, 413, "17 rows came in one request, the limit is 16"),
    (SHADES, levels(1), {"outputs": [triton.InferRequestedOutput("logits")]}, 400, "unexpected inference output"),
    (SHADES, np.array([b"no picture"], object), {"datatype": "BYTES"}, 400, "'row 0' is not an image"),
    (SHADES, np.array([png(1), png(1)[:40]], object), {"datatype": "BYTES"}, 400, "'row 1'"),
    (SHADES, np.array([png(1, (9000, 9000), "1")], object), {"datatype": "BYTES"}, 413, "the limit is 50000000 pixels"),
    (INVERSE, np.array([png(1)], object), {"name": "images", "datatype": "BYTES"}, 400, "is BYTES [1]"),
    (INVERSE, np.zeros((1, 0, 9, 3), np.uint8), {"name": "images"}, 400, "is UINT8 [1, 0, 9, 3]"),
    (
        INVERSE,
        np.zeros((1, 9, 9, 3), np.uint8),
        {"name": "images", "outputs": [triton.InferRequestedOutput("denoised", class_count=2)]},
        400,
        "has no classes",
    ),
    ("/v2/models/shades/versions/2/infer", levels(1), {}, 404, "version '2' is not found; version 1 is served"),
    ("/v2/models/shade/infer", levels(1), {}, 404, "Request for unknown model: 'shade' is not found"),
]


@pytest.mark.parametrize(("path", "array", "changes", "status", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_what_a_model_does_not_take(
    root: Path, path: str, array: Any, changes: dict[str, Any], status: int, text: str
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert text in said(await ask(client, path, *asked(array, **changes)), status)
        assert (await ask(client, SHADES, *asked(levels(0)))).status_code == 200

    run(root, scenario)


def test_bodies_that_lie_about_themselves(root: Path) -> None:
    body, headers = asked(levels(1))

    async def scenario(client: httpx.AsyncClient) -> None:
        size = int(headers[LENGTH])
        for wrong in (size - 1, size + 1, len(body), len(body) + 1, 10**30, -1):
            said(await ask(client, SHADES, body, {LENGTH: str(wrong)}), 400)
        said(await ask(client, SHADES, body[:-1], headers), 400)
        said(await ask(client, SHADES, body + b"0", headers), 400)
        said(await ask(client, SHADES, b"", {}), 400)
        assert "needs" not in said(await ask(client, INVERSE, png(1), {LENGTH: "0"}), 400)
        assert "'row 0' is empty" in said(await ask(client, SHADES, b"", {LENGTH: "0"}), 400)

    run(root, scenario)


def test_compressed_bodies(root: Path) -> None:
    body, headers = asked(levels(1, 250))

    async def scenario(client: httpx.AsyncClient) -> None:
        for coding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
            coded = {**headers, "Content-Encoding": coding}
            found = answered(await ask(client, SHADES, packed, coded), "probabilities")
            assert found.argmax(1).tolist() == [0, 9]
            assert "is cut short" in said(await ask(client, SHADES, packed[:-5], coded), 400)
            assert "3 bytes follow" in said(await ask(client, SHADES, packed + b"end", coded), 400)
            assert f"is not {coding} data" in said(await ask(client, SHADES, body, coded), 400)
        assert "encoded as 'br'" in said(await ask(client, SHADES, body, {"Content-Encoding": "br"}), 415)
        for coding in ("gzip", "deflate"):
            picture = asked(np.zeros((1, 99, 99, 3), np.uint8), "images")
            response = await ask(client, INVERSE, picture[0], {**picture[1], "Accept-Encoding": coding})
            assert response.headers["content-encoding"] == coding
            assert int(response.headers["content-length"]) < 29403
            assert answered(response, "denoised").min() == 255

    run(root, scenario)


def test_accept_encoding() -> None:
    for header, coding in (
        ("", None),
        ("br", None),
        ("gzip", "gzip"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.1, deflate", "deflate"),
        ("gzip;q=0, deflate;q=0", None),
        ("GZIP ; q=0.5", "gzip"),
        ("gzip;q=nan", None),
    ):
        assert preferred_coding(header) == coding, header


def test_bodies_of_the_small_routes(root: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        names = ["inverse", "shades", "soft", "steady"]
        for content in (b"", b"{}", b'{"ready": true}'):
            listed = (await client.post("/v2/repository/index", content=content)).json()
            assert [model["name"] for model in listed] == names
            assert {model["state"] for model in listed} == {"READY"}
        for content in (b"[]", b"{", b'{"ready": 1}'):
            said(await client.post("/v2/repository/index", content=content), 400)
        said(await client.post("/v2/repository/index", content=b" " * 5000), 413)
        assert "'/v2/nothing'" in said(await client.get("/v2/nothing"), 404)
        assert "does not take GET" in said(await client.get(SHADES), 405)
        assert (await client.head("/v2/health/ready")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert 'route="/v2/models/{name}/infer"' not in metrics
        await ask(client, SHADES, *asked(levels(1)))
        metrics = (await client.get("/metrics")).text
        assert 'model="shades",outcome="ok",route="/v2/models/{name}/infer",version="1"} 1.0' in metrics

    run(root, scenario)


def test_json_stays_json(root: Path) -> None:
    """As curl sends it: no parameters, all outputs, and an answer that is JSON from end to end."""
    document = {
        "id": "a",
        "inputs": [{"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": levels(255).tolist()}],
    }

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(SHADES, content=json.dumps(document).encode())
        answer = response.json()
        [output] = answer.pop("outputs")
        assert answer == {"id": "a", "model_name": "shades", "model_version": "1"}
        assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [1, 10])
        assert np.argmax(output["data"]) == 9

    run(root, scenario)
