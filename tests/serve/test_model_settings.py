"""Settings of single models: engines, batches and places of their own, and names that no model has."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.cli import main
from serve.engines.capacity import Capacity
from serve.engines.engine import OnnxCpuEngine, Rows
from serve.models.repository import Repository
from serve.models.served_model import ServedModel, open_model
from serve.models.settings import ModelSettings
from serve.settings import Settings
from skipvit.artifacts import read_entry
from skipvit.transforms import Pixels
from tests.serve.servers import CLASSES, HeldEngine, in_process, png, write_model


def of_shades(**values: Any) -> dict[str, ModelSettings]:
    return {"shades": ModelSettings(**values)}


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_instances_are_engines_of_their_own_that_run_side_by_side(models_dir: Path) -> None:
    """Both engines are held with a picture each; with one engine and thread, the second would wait in the queue."""

    async def main() -> None:
        settings = Settings(decode_threads=1, max_batch=1, models=of_shades(instances=2))
        entry = read_entry(models_dir, "shades")
        first, second = (HeldEngine(OnnxCpuEngine.from_entry(entry)) for _ in range(2))
        repository = Repository([ServedModel(entry, first, settings, CLASSES, others=[second])])
        async with in_process(repository, settings) as client:
            assert first.seen >= 1, "both are warm"
            assert second.seen >= 1
            for engine in (first, second):
                engine.gate.clear()
                engine.entered = 0
            posts = [asyncio.create_task(client.post("/v1/classify", content=png())) for _ in range(3)]
            try:
                await until(lambda: first.entered == second.entered == 1)
                await until(lambda: repository.models["shades"].batcher.waiting == 1)
            finally:
                first.gate.set()
                second.gate.set()
            assert [(await post).status_code for post in posts] == [200] * 3

    asyncio.run(main())


def test_a_model_is_opened_as_often_as_it_has_instances_and_closed_as_often(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[OnnxCpuEngine] = []
    monkeypatch.setattr(OnnxCpuEngine, "close", lambda engine: closed.append(engine))
    model = open_model(read_entry(models_dir, "shades"), Settings(models=of_shades(instances=3)))
    assert model.capacity.instances == 3
    model.close()
    assert len(set(map(id, closed))) == 3


def test_one_engine_that_dies_takes_the_model_out_of_service(models_dir: Path) -> None:
    async def main() -> None:
        settings = Settings(decode_threads=1, models=of_shades(instances=2))
        entry = read_entry(models_dir, "shades")

        class Dying(HeldEngine):
            warm = False

            def run(self, batch: Pixels) -> Rows:
                if self.warm:
                    raise SystemExit("killed")
                return super().run(batch)

        engines = [Dying(OnnxCpuEngine.from_entry(entry)) for _ in range(2)]
        model = ServedModel(entry, engines[0], settings, CLASSES, others=engines[1:])
        async with in_process(Repository([model]), settings) as client:
            for engine in engines:
                engine.warm = True
            assert (await client.post("/v1/classify", content=png())).status_code == 503
            assert not model.batcher.alive

    asyncio.run(main())


@pytest.mark.parametrize(
    ("own", "on_gpu", "expected"),
    [
        ({}, False, (0, 1, 8, 0.002)),
        ({"instances": 2}, False, (1, 2, 8, 0.002)),
        ({"instances": 2}, True, (2, 2, 8, 0.002)),
        ({"max_batch": 3, "max_wait_ms": 0}, False, (0, 1, 3, 0.0)),
    ],
)
def test_a_models_own_settings_win(own: dict[str, Any], on_gpu: bool, expected: tuple[int, int, int, float]) -> None:
    settings = Settings(max_batch=8, max_wait_ms=2, models=of_shades(**own))
    capacity = Capacity.of(settings, "shades", "classification", on_gpu)
    assert (capacity.threads, capacity.instances, capacity.max_batch, capacity.max_wait_s) == expected
    assert Capacity.of(settings, "other", "classification", on_gpu=False).max_batch == 8


def test_a_denoisers_tiles_ahead_count_all_of_its_instances() -> None:
    settings = Settings(models=of_shades(instances=4))
    assert Capacity.of(settings, "shades", "denoising", on_gpu=False).tiles_ahead(1) == 6
    assert Capacity.of(settings, "shades", "denoising", on_gpu=True).tiles_ahead(2) == 18


@pytest.mark.parametrize("path", ["/v1/classify", "/v2/models/shades/infer"])
def test_a_model_has_places_of_its_own(tmp_path: Path, path: str) -> None:
    async def main() -> None:
        for name in ("other", "shades"):
            write_model(tmp_path, name)
        settings = Settings(decode_threads=1, engine_threads=1, models=of_shades(max_in_flight=1))
        entries = [read_entry(tmp_path, name) for name in ("other", "shades")]
        engines = [HeldEngine(OnnxCpuEngine.from_entry(entry)) for entry in entries]
        models = [ServedModel(entry, engine, settings, CLASSES) for entry, engine in zip(entries, engines, strict=True)]
        async with in_process(Repository(models), settings) as client:
            engine = engines[1]
            engine.gate.clear()
            engine.entered = 0
            ask = {"params": {"model": "shades"}} if path == "/v1/classify" else {"headers": RAW}
            first = asyncio.create_task(client.post(path, content=png(), **ask))
            try:
                await until(lambda: engine.entered == 1)
                refused = await client.post(path, content=png(), **ask)
                assert refused.status_code == 429
                assert "1 pictures for model 'shades' are in flight" in said(refused)
                assert refused.headers["retry-after"] == "1"
                assert (await client.post("/v1/classify", content=png(), params={"model": "other"})).status_code == 200
            finally:
                engine.gate.set()
            assert (await first).status_code == 200
            assert (await client.post(path, content=png(), **ask)).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize("pictures", [2, 3])
def test_more_pictures_than_a_model_has_places_are_never_asked_to_come_again(models_dir: Path, pictures: int) -> None:
    async def main() -> None:
        settings = Settings(decode_threads=1, models=of_shades(max_in_flight=2))
        async with in_process(Repository.open(models_dir, settings), settings) as client:
            files = [("image", (f"{n}.png", png())) for n in range(pictures)]
            answer = await client.post("/v1/classify", files=files)
            assert answer.status_code == (200 if pictures == 2 else 413)
            if pictures == 3:
                assert said(answer) == "3 pictures for model 'shades' came in one request, 2 may be in flight"
                assert "retry-after" not in answer.headers

    asyncio.run(main())


RAW = {"Inference-Header-Content-Length": "0"}


def said(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


def test_a_table_of_a_model_that_is_not_there_ends_the_server_with_the_nearest_name(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("[models.shade]\ninstances = 2\n")
    assert main([str(models_dir), "--config", str(file)]) == 1
    said = capsys.readouterr().err
    assert "there is a table for model 'shade' and no such model; did you mean 'shades'?" in said
