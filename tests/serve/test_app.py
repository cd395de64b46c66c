"""Routes that every server has, in process: probes, models, metrics, the page, and paths that are none."""

import io
import platform
from pathlib import Path

import httpx
from PIL import Image

import skipvit
from tests.serve.servers import CLASSES, png, run

PNG = {"Content-Type": "image/png"}


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
            assert f'skipvit_stage_seconds_count{{model="shades",stage="{stage}"}}' in text
        for name in (
            'skipvit_batch_size_count{model="shades"} 1.0',
            'skipvit_batches_total{model="shades",reason="idle"} 1.0',
            'skipvit_queue_images{model="shades",version="1"} 0.0',
            'skipvit_model_ready{model="shades",version="1"} 1.0',
            "skipvit_inflight_requests 1.0",
            'skipvit_cancelled_total{where="queue"} 0.0',
            'skipvit_images_total{model="shades"} 1.0',
            'skipvit_model_info{device="CPU",engine="onnx-cpu",model="shades",version="1"} 1.0',
            f'skipvit_build_info{{python="{platform.python_version()}",version="{skipvit.__version__}"}} 1.0',
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
