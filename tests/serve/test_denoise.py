"""POST /v1/denoise, in process: the ways to ask for a restored picture, and what is refused."""

import base64
import io
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from serve.settings import Settings
from skipvit.tiling import reflected
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import encoded, png, run, write_model

DENOISE = "/v1/denoise"
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Denoisers of every kind, and a classifier that comes first by name."""
    root = tmp_path_factory.mktemp("denoisers")
    write_model(root, "a-classifier")
    write_denoiser(root)
    write_denoiser(root, "inverse", "inverse")
    write_denoiser(root, "soft", "blur")
    return root


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def decoded(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    image = Image.open(io.BytesIO(response.content))
    image.load()
    return image


def test_every_way_to_send_a_picture(root: Path) -> None:
    pixels = noise(100, 150)
    data = encoded(Image.fromarray(pixels))

    async def scenario(client: httpx.AsyncClient) -> None:
        responses = [
            await client.put(DENOISE, content=data),  # as curl -T sends it
            await client.post(DENOISE, content=data, headers={"Content-Type": "image/png"}),
            await client.post(DENOISE, files={"image": ("a.png", data)}, data={"model": "clean"}),
            await client.post(DENOISE, json={"image": base64.b64encode(data).decode(), "quality": 10}),
        ]
        for response in responses:
            assert np.array_equal(np.asarray(decoded(response)), pixels)
            assert response.headers["content-type"] == "image/png"
            assert response.headers["x-skipvit-model"] == "clean/1"
            assert response.headers["x-skipvit-tiles"] == "6"  # 2 x 3 of 64 pixels, at steps of at most 48
            assert "x-skipvit-note" not in response.headers
            assert response.headers["x-request-id"]
            timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
            assert list(timing) == ["read", "decode", "queue", "denoise", "encode", "total"]
            stages = [float(timing[stage]) for stage in ("read", "decode", "denoise", "encode")]
            assert 0 < sum(stages) <= float(timing["total"])

    run(root, scenario)


def test_the_model_is_the_one_asked_for(root: Path) -> None:
    pixels = noise(70, 90)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(f"{DENOISE}?model=inverse", content=encoded(Image.fromarray(pixels)))
        assert np.array_equal(np.asarray(decoded(response)), 255 - pixels)
        # Each route takes the first model of its task.
        response = await client.post("/v1/classify", content=png())
        assert response.json()["model"]["name"] == "a-classifier"
        wrong = await client.post(f"{DENOISE}?model=a-classifier", content=png())
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "wrong_task")
        assert "/v1/classify" in wrong.json()["error"]["hint"]
        wrong = await client.post("/v1/classify?model=clean", content=png())
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "wrong_task")
        assert DENOISE in wrong.json()["error"]["hint"]
        unknown = await client.post(f"{DENOISE}?model=claen", content=png())
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_model")
        assert "did you mean 'clean'?" in unknown.json()["error"]["hint"]

    run(root, scenario)


def test_no_model_for_the_task(tmp_path: Path) -> None:
    write_model(tmp_path)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(DENOISE, content=png())
        assert (response.status_code, response.json()["error"]["code"]) == (404, "no_model")

    run(tmp_path, scenario)


TWO = [("f", ("a.png", png())), ("f", ("b.png", png()))]
FRAMES = encoded(Image.new("L", (8, 8)), "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 200)])
ERRORS = [
    ({"content": b""}, 400, "empty_image"),
    ({"content": b"text"}, 400, "not_an_image"),
    ({"content": encoded(Image.fromarray(noise(30, 30)))[:-900]}, 400, "truncated_image"),
    ({"content": b"\x00\x00\x00\x18ftypheic" + bytes(20)}, 400, "not_an_image"),
    ({"content": png(), "params": {"quality": "101"}}, 422, "bad_field"),
    ({"content": png(), "params": {"top_k": "3"}}, 422, "unknown_field"),
    ({"content": png(), "headers": {"Accept": "image/avif, text/html"}}, 406, "not_acceptable"),
    ({"content": png(), "headers": {"Content-Type": "video/mp4"}}, 415, "wrong_content_type"),
    ({"content": png(), "headers": {"Content-Encoding": "gzip"}}, 415, "wrong_content_encoding"),
    ({"content": bytes(30_000)}, 413, "body_too_large"),
    ({"content": png(size=(101, 100))}, 413, "image_too_large"),
    ({"content": png(size=(2000, 1))}, 413, "too_many_tiles"),
    ({"content": FRAMES}, 413, "too_many_frames"),
    ({"files": TWO}, 422, "one_file"),
    ({"files": {"f": b""}, "data": {"quality": "80"}, "params": {"quality": "0"}}, 422, "bad_field"),
    ({"json": {"images": ["x"]}}, 422, "unknown_field"),
    ({"json": {"image": "???"}}, 422, "bad_base64"),
]


@pytest.mark.parametrize(
    ("request_", "status", "code"), ERRORS, ids=[f"{e[1]}-{e[2]}-{i}" for i, e in enumerate(ERRORS)]
)
def test_errors_say_what_to_do(root: Path, request_: dict[str, object], status: int, code: str) -> None:
    knobs = Settings(decode_threads=1, tile_threads=1, max_body_bytes=20_000, max_pixels=10_000)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(DENOISE, **request_)  # type: ignore[arg-type]
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert response.headers["content-type"] == "application/json"
        assert len(response.json()["error"]["hint"]) > 10
        assert response.json()["id"] == response.headers["x-request-id"]
        # The server is unharmed, and nothing is held.
        assert (await client.post(DENOISE, content=png())).status_code == 200
        assert "skipvit_inflight_requests 1.0" in (await client.get("/metrics")).text

    run(root, scenario, knobs)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["L", "LA", "RGB", "RGBA"]))
@example(2000, 3000, "RGB")
@example(1, 1, "RGBA")
@example(1, 2500, "L")
@settings(max_examples=15, deadline=None)
def test_an_identity_changes_no_bit(root: Path, height: int, width: int, mode: str) -> None:
    image = Image.merge(mode, [Image.fromarray(noise(height, width)[:, :, k % 3]) for k in range(len(mode))])

    async def scenario(client: httpx.AsyncClient) -> None:
        result = decoded(await client.post(DENOISE, content=encoded(image, compress_level=1)))
        assert (result.mode, result.size) == (mode, image.size)
        assert result.tobytes() == image.tobytes()

    run(root, scenario)


def blurred_whole(root: Path, pixels: Pixels) -> Pixels:
    """The blur on the whole picture, in one run of the engine, padded as the tiles pad it."""
    height, width = pixels.shape[:2]
    ys, xs = (reflected(np.arange(-(-size // 8) * 8), size) for size in (height, width))
    whole = pixels[ys[:, np.newaxis], xs]
    session = onnxruntime.InferenceSession(root / "soft" / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    result: Pixels = session.run(["denoised"], {"images": whole[np.newaxis]})[0][0, :height, :width]
    return result


@pytest.mark.parametrize(("height", "width"), [(200, 333), (64, 500), (129, 65)])
def test_tiles_of_a_local_model_cannot_be_told_from_the_whole(root: Path, height: int, width: int) -> None:
    pixels = noise(height, width)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(f"{DENOISE}?model=soft", content=encoded(Image.fromarray(pixels)))
        assert int(response.headers["x-skipvit-tiles"]) > 1
        assert np.array_equal(np.asarray(decoded(response)), blurred_whole(root, pixels))

    run(root, scenario)


def test_a_gradient_stays_smooth(root: Path) -> None:
    gradient = np.broadcast_to(np.linspace(40, 200, 600), (200, 600)).round().astype(np.uint8)

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(f"{DENOISE}?model=soft", content=encoded(Image.fromarray(gradient)))
        steps = np.diff(np.asarray(decoded(response)).astype(int), axis=1)
        assert steps.min() >= 0
        assert steps.max() <= 1

    run(root, scenario)


def test_a_camera_s_file_keeps_what_it_says_about_itself(root: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(noise(90, 130)), "JPEG", quality=95, icc_profile=profile, exif=exif.tobytes())

    async def scenario(client: httpx.AsyncClient) -> None:
        for accept, format in (("image/jpeg", "JPEG"), ("image/webp,*/*;q=0.5", "WEBP"), ("*/*", "PNG")):
            result = decoded(await client.post(DENOISE, content=data, headers={"Accept": accept}))
            assert (result.format, result.size, result.getexif()[0x0112]) == (format, (130, 90), 6)
            assert result.info["icc_profile"] == profile

    run(root, scenario)


def test_what_changes_on_purpose_is_said(root: Path) -> None:
    deep = encoded(Image.fromarray((np.arange(400).reshape(20, 20) * 160).astype(np.uint16)))
    clear = encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0)))

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.post(DENOISE, content=deep)
        assert decoded(response).mode == "L"
        assert response.headers["x-skipvit-note"] == "restored at 8 bits: the picture had more"
        response = await client.post(DENOISE, content=clear, headers={"Accept": "image/jpeg"})
        assert decoded(response).getpixel((9, 9)) == (255, 255, 255)
        assert "over white" in response.headers["x-skipvit-note"]

    run(root, scenario)
