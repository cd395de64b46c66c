"""Groups over HTTP: which variant answers, how answers say so, and what is said of a group that cannot be served."""

import shutil
from pathlib import Path

import httpx
import pytest

from serve.cli import main
from skipvit.manifest import Tiling
from tests.serve.denoisers import write_denoiser
from tests.serve.grouped import CLASSIFY, OIP_REQUEST, WHITE, grouped
from tests.serve.servers import CLASSES, run, write_model
from tests.serve.video_denoisers import write_video_denoiser


def test_an_answer_names_the_variant_and_the_group(variants: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post(CLASSIFY, params={"model": "shades"}, content=WHITE)
        assert answer.json()["model"] == {"name": "best", "version": "1"}
        assert answer.json()["group"] == "shades"
        assert answer.json()["results"][0]["predictions"][0]["label"] == "9"
        assert (answer.headers["x-skipvit-model"], answer.headers["x-skipvit-group"]) == ("best/1", "shades")
        picture = await client.post("/v1/denoise", params={"model": "photos"}, content=WHITE)
        assert (picture.headers["x-skipvit-model"], picture.headers["x-skipvit-group"]) == ("cleaner/1", "photos")
        tensors = await client.post("/v2/models/shades/infer", json=OIP_REQUEST)
        assert tensors.json()["model_name"] == "best"
        assert (tensors.headers["x-skipvit-model"], tensors.headers["x-skipvit-group"]) == ("best/1", "shades")
        counted = (await client.get("/metrics")).text
        assert 'skipvit_group_requests_total{group="shades",variant="best"} 2.0' in counted
        assert 'skipvit_group_step{group="photos"} 0.0' in counted

    run(variants, scenario, grouped())


def test_without_a_group_the_answer_names_the_model_alone(variants: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for params in ({}, {"model": "best"}):
            answer = await client.post(CLASSIFY, params=params, content=WHITE)
            assert answer.headers["x-skipvit-model"] == "best/1"
            assert "x-skipvit-group" not in answer.headers
            assert "group" not in answer.json()
        assert "skipvit_group_requests_total{" not in (await client.get("/metrics")).text

    run(variants, scenario, grouped())


def test_a_default_group_answers_who_names_no_model(variants: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post(CLASSIFY, content=WHITE)
        assert (answer.json()["group"], answer.json()["model"]["name"]) == ("shades", "best")
        answer = await client.post(CLASSIFY, headers={"X-Skipvit-Variant": "good"}, content=WHITE)
        assert answer.json()["model"]["name"] == "good"
        picture = await client.post("/v1/denoise", content=WHITE)
        assert "x-skipvit-group" not in picture.headers

    run(variants, scenario, grouped(default=True))


def test_a_client_pins_a_variant_by_header_field_or_name(variants: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        group = {"model": "shades"}
        for asked, got in (("exact", "best"), ("better", "better"), ("good", "good")):
            for answer in (
                await client.post(CLASSIFY, params=group, headers={"X-Skipvit-Variant": asked}, content=WHITE),
                await client.post(CLASSIFY, params={**group, "variant": asked}, content=WHITE),
                await client.post(CLASSIFY, data={**group, "variant": asked}, files={"file": WHITE}),
            ):
                assert (answer.status_code, answer.headers["x-skipvit-model"]) == (200, f"{got}/1")
                assert answer.headers["x-skipvit-group"] == "shades"
        headers = {"X-Skipvit-Variant": "good"}
        tensors = await client.post("/v2/models/shades/infer", json=OIP_REQUEST, headers=headers)
        assert tensors.json()["model_name"] == "good"
        picture = await client.post("/v1/denoise", params={"model": "photos", "variant": "clean"}, content=WHITE)
        assert picture.headers["x-skipvit-model"] == "clean/1"

    run(variants, scenario, grouped())


@pytest.mark.parametrize(
    ("path", "params", "header", "status", "said"),
    [
        (CLASSIFY, {"model": "shades", "variant": "god"}, None, 422, "did you mean 'good'"),
        (CLASSIFY, {"model": "shadse"}, None, 404, "did you mean 'shades'?"),
        ("/v1/denoise", {"model": "shadse"}, None, 404, "there are: clean, cleaner, photos"),
        ("/v2/models/shadse/infer", {}, None, 404, "did you mean 'shades'?"),
        (CLASSIFY, {"model": "good", "variant": "exact"}, None, 422, "leave variant out"),
        (CLASSIFY, {"variant": "exact"}, None, 422, "leave variant out"),
        (CLASSIFY, {"model": "shades", "variant": "good"}, "good", 422, "as a parameter and as a header"),
        (CLASSIFY, {"model": "photos"}, None, 422, "/v1/denoise"),
        ("/v1/denoise", {"model": "shades"}, None, 422, "/v1/classify"),
        ("/v2/models/shades/versions/1/infer", {}, None, 404, "is a group"),
        ("/v2/models/good/infer", {}, "exact", 400, "leave variant out"),
        ("/v2/models/sizes/infer", {}, None, 400, "tensors of different shapes"),
    ],
)
def test_what_cannot_be_is_said(
    variants: Path, path: str, params: dict[str, str], header: str | None, status: int, said: str
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        headers = {} if header is None else {"X-Skipvit-Variant": header}
        content = WHITE if path.startswith("/v1") else b"{}"
        answer = await client.post(path, params=params, headers=headers, content=content)
        assert (answer.status_code, said in answer.text) == (status, True), answer.text

    run(variants, scenario, grouped())


def test_models_of_other_sizes_share_a_group_for_files(variants: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for variant in ("large", "good"):
            answer = await client.post(CLASSIFY, params={"model": "sizes", "variant": variant}, content=WHITE)
            assert answer.json()["results"][0]["predictions"][0]["label"] == "9"

    run(variants, scenario, grouped())


def test_a_group_says_what_it_is(variants: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        groups = {group["name"]: group for group in (await client.get("/v1/models")).json()["groups"]}
        assert groups["shades"] == {
            "name": "shades", "task": "classification", "variants": ["best", "better", "good"], "p99_ms": 60_000.0,
            "default": False, "step": 0, "variant": "best",
        }  # fmt: skip
        metadata = (await client.get("/v2/models/shades")).json()
        assert (metadata["name"], metadata["versions"]) == ("shades", [])
        assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
        assert (await client.get("/v2/models/shades/config")).json()["name"] == "shades"
        assert (await client.get("/v2/models/shades/ready")).json() == {"name": "shades", "ready": True}

    run(variants, scenario, grouped())


@pytest.fixture(scope="module")
def unlike(variants: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of them, with models that are no variants of them."""
    unlike = tmp_path_factory.mktemp("unlike")
    for shared in ("good", "best", "clean"):
        shutil.copytree(variants / shared, unlike / shared)
    write_model(unlike, "named", labels=[f"shade {i}" for i in range(CLASSES)])
    write_denoiser(unlike, "tiled", tiling=Tiling(tile=32, halo=8, multiple=8))
    write_video_denoiser(unlike, "clip", "identity")
    write_video_denoiser(unlike, "clop", "identity")
    return unlike


@pytest.mark.parametrize(
    ("name", "members", "said"),
    [
        ("any", ["good", "bst"], "'bst', which is not served; did you mean 'best'?"),
        ("good", ["good", "best"], "has the name of a model"),
        ("a/b", ["good", "best"], "needs a name of letters"),
        ("any", ["good", "clean"], "good is for classification, clean for denoising"),
        ("any", ["good", "named"], "different labels"),
        ("any", ["clean", "tiled"], "differ in their tiles"),
        ("any", ["clip", "clop"], "groups are for classification or denoising"),
        ("any", ["good", "good"], "listed twice"),
    ],
)
def test_a_group_that_cannot_be_ends_the_server_at_once(
    unlike: Path, tmp_path: Path, name: str, members: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f'[groups."{name}"]\nvariants = {members}\np99_ms = 100\n')
    assert main([str(unlike), "--config", str(config), "--port", "0"]) == 1
    assert said in capsys.readouterr().err


def test_only_one_group_is_the_default_of_a_task(
    variants: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        '[groups.one]\nvariants = ["best", "good"]\np99_ms = 100\ndefault = true\n'
        '[groups.two]\nvariants = ["better", "good"]\np99_ms = 100\ndefault = true\n'
    )
    assert main([str(variants), "--config", str(config), "--port", "0"]) == 1
    assert "both the default for classification" in capsys.readouterr().err
