"""Groups over HTTP: which variant answers, how answers say so, and what is said of a group that cannot be served."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.cli import main
from serve.engines.engine import OnnxCpuEngine
from serve.errors import Overloaded
from serve.models.groups import Chosen, Groups
from serve.models.ladder import Ladder
from serve.models.repository import Repository
from serve.models.served_model import ServedModel, open_model
from serve.models.settings import GroupSettings
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from skipvit.artifacts import read_entry
from skipvit.manifest import Tiling
from tests.serve.denoisers import write_denoiser
from tests.serve.servers import CLASSES, HeldEngine, in_process, png, run, write_model
from tests.serve.video_denoisers import write_video_denoiser

CLASSIFY = "/v1/classify"
WHITE = png(255)
OIP_REQUEST = {"inputs": [{"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [255] * 192}]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("groups")
    for name in ("good", "better", "best"):
        write_model(root, name)
    write_model(root, "large", side=16)
    write_denoiser(root, "clean")
    write_denoiser(root, "cleaner")
    return root


@pytest.fixture(scope="module")
def unlike(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with models that are no variants of them."""
    unlike = tmp_path_factory.mktemp("unlike")
    for shared in ("good", "best", "clean"):
        shutil.copytree(root / shared, unlike / shared)
    write_model(unlike, "named", labels=[f"shade {i}" for i in range(CLASSES)])
    write_denoiser(unlike, "tiled", tiling=Tiling(tile=32, halo=8, multiple=8))
    write_video_denoiser(unlike, "clip", "identity")
    write_video_denoiser(unlike, "clop", "identity")
    return unlike


def settings(default: bool = False, **more: Any) -> Settings:
    groups = {
        "shades": GroupSettings(variants=["best", "better", "good"], p99_ms=60_000, default=default),
        "sizes": GroupSettings(variants=["large", "good"], p99_ms=60_000),
        "photos": GroupSettings(variants=["cleaner", "clean"], p99_ms=60_000),
    }
    return Settings(decode_threads=2, tile_threads=1, groups=groups, **more)


def test_an_answer_names_the_variant_and_the_group(root: Path) -> None:
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

    run(root, scenario, settings())


def test_without_a_group_the_answer_names_the_model_alone(root: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for params in ({}, {"model": "best"}):
            answer = await client.post(CLASSIFY, params=params, content=WHITE)
            assert answer.headers["x-skipvit-model"] == "best/1"
            assert "x-skipvit-group" not in answer.headers
            assert "group" not in answer.json()
        assert "skipvit_group_requests_total{" not in (await client.get("/metrics")).text

    run(root, scenario, settings())


def test_a_default_group_answers_who_names_no_model(root: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post(CLASSIFY, content=WHITE)
        assert (answer.json()["group"], answer.json()["model"]["name"]) == ("shades", "best")
        answer = await client.post(CLASSIFY, headers={"X-Skipvit-Variant": "good"}, content=WHITE)
        assert answer.json()["model"]["name"] == "good"
        picture = await client.post("/v1/denoise", content=WHITE)
        assert "x-skipvit-group" not in picture.headers

    run(root, scenario, settings(default=True))


def test_a_client_pins_a_variant_by_header_field_or_name(root: Path) -> None:
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

    run(root, scenario, settings())


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
    root: Path, path: str, params: dict[str, str], header: str | None, status: int, said: str
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        headers = {} if header is None else {"X-Skipvit-Variant": header}
        content = WHITE if path.startswith("/v1") else b"{}"
        answer = await client.post(path, params=params, headers=headers, content=content)
        assert (answer.status_code, said in answer.text) == (status, True), answer.text

    run(root, scenario, settings())


def test_models_of_other_sizes_share_a_group_for_files(root: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for variant in ("large", "good"):
            answer = await client.post(CLASSIFY, params={"model": "sizes", "variant": variant}, content=WHITE)
            assert answer.json()["results"][0]["predictions"][0]["label"] == "9"

    run(root, scenario, settings())


def test_a_group_says_what_it_is(root: Path) -> None:
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

    run(root, scenario, settings())


@asynccontextmanager
async def held_best(root: Path) -> AsyncIterator[tuple[httpx.AsyncClient, HeldEngine, Repository]]:
    """A group of two whose exact variant is held at its gate.

    Its objective of half a second is not over between two requests that come at once, on a busy machine, too.
    """
    groups = {"pair": GroupSettings(variants=["best", "good"], p99_ms=500, hold_s=0.25)}
    own = Settings(decode_threads=2, engine_threads=1, groups=groups)
    entry = read_entry(root, "best")
    engine = HeldEngine(OnnxCpuEngine.from_entry(entry))
    repository = Repository([ServedModel(entry, engine, own, CLASSES), open_model(read_entry(root, "good"), own)])
    async with in_process(repository, own) as client:
        engine.gate.clear()
        engine.entered = 0
        try:
            yield client, engine, repository
        finally:
            engine.gate.set()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def group_of(client: httpx.AsyncClient) -> dict[str, Any]:
    [group] = (await client.get("/v1/models")).json()["groups"]
    assert isinstance(group, dict)
    return group


def test_requests_go_to_the_faster_variant_while_the_exact_one_is_slow(root: Path) -> None:
    async def main() -> None:
        async with held_best(root) as (client, engine, repository):

            async def ask(**more: str) -> str:
                answer = await client.post(CLASSIFY, params={"model": "pair", **more}, content=WHITE)
                assert answer.status_code == 200, answer.text
                return str(answer.headers["x-skipvit-model"])

            slow = [asyncio.create_task(ask()) for _ in range(2)]
            await until(lambda: engine.entered + repository.models["best"].batcher.waiting == 2)
            await asyncio.sleep(0.6)  # both have waited for longer than the objective
            assert await ask() == "good/1"
            assert (await group_of(client))["variant"] == "good"
            pinned = asyncio.create_task(ask(variant="exact"))
            await until(lambda: engine.entered + repository.models["best"].batcher.waiting == 3)
            engine.gate.set()
            assert await asyncio.gather(*slow, pinned) == ["best/1"] * 3, "who was there before stays where it is"
            async with asyncio.timeout(30):
                while (await group_of(client))["step"]:  # comes back without a request
                    await asyncio.sleep(0.02)
            counted = (await client.get("/metrics")).text
            assert 'skipvit_group_transitions_total{direction="down",group="pair"} 1.0' in counted
            assert 'skipvit_group_transitions_total{direction="up",group="pair"} 1.0' in counted
            assert 'skipvit_group_requests_total{group="pair",variant="good"} 1.0' in counted

    asyncio.run(main())


def test_places_that_fill_up_step_down_before_anyone_is_turned_away(root: Path) -> None:
    async def main() -> None:
        groups = {"pair": GroupSettings(variants=["best", "good"], p99_ms=1, hold_s=600)}
        own = Settings(decode_threads=2, engine_threads=1, max_in_flight=16, groups=groups)
        entry = read_entry(root, "best")
        engine = HeldEngine(OnnxCpuEngine.from_entry(entry))
        good = open_model(read_entry(root, "good"), own)
        repository = Repository([ServedModel(entry, engine, own, CLASSES), good])
        async with in_process(repository, own) as client:
            engine.gate.clear()
            engine.entered = 0
            params = {"model": "best"}
            held = [asyncio.create_task(client.post(CLASSIFY, params=params, content=WHITE)) for _ in range(13)]
            batcher = repository.models["best"].batcher
            await until(lambda: engine.entered + batcher.waiting == 13)
            answer = await client.post(CLASSIFY, params={"model": "pair"}, content=WHITE)
            assert answer.headers["x-skipvit-model"] == "good/1"
            engine.gate.set()
            assert {answer.status_code for answer in await asyncio.gather(*held)} == {200}

    asyncio.run(main())


def test_a_variant_that_is_gone_or_dead_is_passed_over(root: Path) -> None:
    async def main() -> None:
        own = settings()
        repository = Repository.open(root, own)
        async with in_process(repository, own) as client:

            async def ask(**more: str) -> httpx.Response:
                return await client.post(CLASSIFY, params={"model": "shades", **more}, content=WHITE)

            models = dict(repository.models)
            repository._models = {name: model for name, model in models.items() if name != "best"}
            assert (await ask()).headers["x-skipvit-model"] == "better/1"
            gone = await ask(variant="exact")
            assert (gone.status_code, "'best' of group 'shades'" in gone.text) == (503, True)
            models["better"].labels = ("other", *models["better"].labels[1:])
            repository._models = models
            assert (await ask(variant="good")).status_code == 200
            assert (await ask(variant="better")).status_code == 503, "its labels are others now"
            repository._models = {name: models[name] for name in ("clean", "cleaner", "large")}
            assert (await ask()).status_code == 503
            repository._models = {**models, "best": models["cleaner"]}  # a new version of it is for another task
            assert (await ask()).headers["x-skipvit-model"] == "better/1"
            assert (await ask(variant="exact")).status_code == 503
            assert (await client.post("/v2/models/shades/infer", json=OIP_REQUEST)).status_code == 200
            repository._models = dict.fromkeys(("best", "better", "good"), models["cleaner"])
            assert (await ask()).status_code == 503
            repository._models = models

    asyncio.run(main())


def test_the_ladders_of_its_task_are_told_of_a_request_that_finds_the_server_full(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Ladder, "press", lambda _ladder, why: told.append(why))

    async def main() -> None:
        groups = {
            "pair": GroupSettings(variants=["best", "good"], p99_ms=60_000),
            "photos": GroupSettings(variants=["clean", "cleaner"], p99_ms=60_000),
        }
        own = Settings(decode_threads=2, engine_threads=1, tile_threads=1, max_in_flight=1, max_files=1, groups=groups)
        entry = read_entry(root, "best")
        engine = HeldEngine(OnnxCpuEngine.from_entry(entry))
        others = [open_model(read_entry(root, name), own) for name in ("good", "clean", "cleaner")]
        repository = Repository([ServedModel(entry, engine, own, CLASSES), *others])
        async with in_process(repository, own) as client:
            engine.gate.clear()
            engine.entered = 0
            held = asyncio.create_task(client.post(CLASSIFY, params={"model": "best"}, content=WHITE))
            await until(lambda: engine.entered == 1)
            assert (await client.post(CLASSIFY, params={"model": "pair"}, content=WHITE)).status_code == 429
            engine.gate.set()
            assert (await held).status_code == 200

    asyncio.run(main())
    assert told == ["a request was turned away"]


@pytest.mark.parametrize(
    ("model", "told"),
    [("best", ["shades"]), ("good", ["shades", "sizes"]), ("other", []), ("clean", ["photos"]), (None, ["photos"])],
)
def test_only_the_ladders_that_a_refusal_concerns_are_told_of_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, model: str | None, told: list[str]
) -> None:
    """A model that is no variant may be full for itself, which no step of a ladder helps."""
    own = settings()
    repository = Repository.open(root, own)
    groups = Groups(own, repository, Metrics())
    pressed: list[Ladder] = []
    monkeypatch.setattr(Ladder, "press", lambda ladder, _why: pressed.append(ladder))
    models = {**repository.models, "other": open_model(read_entry(root, "good"), own)}
    models["other"].name = "other"
    with pytest.raises(Overloaded), groups.told_of_refusals(Chosen(models[model]) if model else "denoising"):
        raise Overloaded("full", 1)
    assert [group.name for group in groups.all if group.ladder in pressed] == told
    for one in (*repository.served, models["other"]):
        one.close()


@pytest.mark.parametrize(
    ("name", "variants", "said"),
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
    unlike: Path, tmp_path: Path, name: str, variants: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f'[groups."{name}"]\nvariants = {variants}\np99_ms = 100\n')
    assert main([str(unlike), "--config", str(config), "--port", "0"]) == 1
    assert said in capsys.readouterr().err


def test_only_one_group_is_the_default_of_a_task(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        '[groups.one]\nvariants = ["best", "good"]\np99_ms = 100\ndefault = true\n'
        '[groups.two]\nvariants = ["better", "good"]\np99_ms = 100\ndefault = true\n'
    )
    assert main([str(root), "--config", str(config), "--port", "0"]) == 1
    assert "both the default for classification" in capsys.readouterr().err
