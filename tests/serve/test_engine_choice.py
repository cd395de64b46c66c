"""Which engine runs a model: what was asked for or a sentence, and with auto the fastest that is verified here."""

import argparse
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from export.to_trt import _parser as to_trt_parser
from serve.cli import main
from serve.engines.capacity import Capacity
from serve.engines.choice import open_engine
from serve.engines.engine import EngineUnavailable, OnnxCpuEngine
from serve.engines.onnx_cuda_engine import has_cuda_build
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.settings import Settings
from skipvit.artifacts import Entry, read_entry
from tests.serve.denoisers import write_denoiser
from tests.serve.fake_machine import Machine, add_engine
from tests.serve.servers import CLASSES, encoded, png, run, write_model
from tests.trt_plugins.fake_tensorrt import denoiser
from trt_plugins.sources import sources_hash

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models")


def entry_of(folder: Path) -> Entry:
    return read_entry(folder.parent.parent, folder.parent.name)


def chosen(folder: Path, choice: str = "auto") -> tuple[str, str]:
    """Kind of the engine that is opened, and why."""
    engine, info = open_engine(entry_of(folder), Settings(engine=choice))  # type: ignore[arg-type]
    engine.close()
    return info.kind, info.why


def refused(folder: Path, choice: str) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        open_engine(entry_of(folder), Settings(engine=choice))  # type: ignore[arg-type]
    return str(caught.value)


def command_in(said: str) -> argparse.Namespace:
    """The skipvit-to-trt command that a sentence tells, as that program reads it."""
    [words] = re.findall(r"skipvit-to-trt ((?:(?:--)?[\w./-]+ ?)+)", said)
    return to_trt_parser().parse_args(words.split())


def test_without_engines_auto_takes_the_cpu(folder: Path, machine: Machine) -> None:
    assert chosen(folder) == ("onnx-cpu", "ONNX Runtime is the one for CPUs")
    assert not machine.opened


def test_auto_takes_a_verified_engine(folder: Path, machine: Machine) -> None:
    add_engine(folder)
    assert chosen(folder) == ("tensorrt", "it is the fastest that is verified here")
    assert machine.device.leftovers == (0, 0, 0)


@pytest.mark.parametrize(
    ("engine", "here", "why"),
    [
        ({"status": "built, not run"}, {}, "model.fp16.plan is built, not run"),
        ({"gpu": "NVIDIA L4"}, {}, "was verified on NVIDIA L4, here is NVIDIA H200"),
        ({}, {"gpu": None}, "needs a GPU"),
        ({"flavor_version": "9.9.8"}, {}, "was verified with tensorrt 9.9.8, here is 9.9.9"),
        ({}, {"installed": {}}, "cannot run: tensorrt is not installed"),
        ({"content": b"damaged"}, {}, "is damaged, or no engine of TensorRT 9.9.9"),
    ],
    ids=["not verified", "another GPU", "no GPU", "another version", "no TensorRT", "does not open"],
)
def test_auto_passes_over_an_engine_and_says_why(
    folder: Path, machine: Machine, engine: dict[str, Any], here: dict[str, Any], why: str
) -> None:
    add_engine(folder, **engine)
    for name, value in here.items():
        setattr(machine, name, value)
    kind, said = chosen(folder)
    assert kind == "onnx-cpu"
    assert why in said


def test_auto_asks_for_the_kernels_that_an_engine_was_verified_with(folder: Path, machine: Machine) -> None:
    machine.install("tensorrt-rtx")
    add_engine(folder, "old.plan", options={"plugin_sources": "0" * 64}, flavor="tensorrt-rtx")
    kind, said = chosen(folder)
    assert kind == "onnx-cpu"
    assert "old.plan was verified with other kernels than skipvit has here" in said
    assert command_in(said).flavor == "rtx"
    add_engine(folder, "new.plan", options={"plugin_sources": sources_hash()}, flavor="tensorrt-rtx")
    assert chosen(folder)[0] == "tensorrt-rtx"
    add_engine(folder, "whole.plan", options={"plugin_sources": "0" * 64})  # full TensorRT's has its kernels in it
    assert chosen(folder)[0] == "tensorrt"


def test_auto_takes_the_fastest_of_several(folder: Path, machine: Machine) -> None:
    machine.install("tensorrt-rtx")
    add_engine(folder, "a.plan", precision="fp32")
    add_engine(folder, "b.plan", precision="fp16", flavor="tensorrt-rtx")
    add_engine(folder, "c.plan", precision="fp16")
    chosen(folder)
    assert machine.opened == ["c.plan"]
    machine.opened.clear()
    (folder / "c.plan").write_bytes(b"x")
    add_engine(folder, "c.plan", b"damaged")  # opens no more, so that the next is tried
    assert chosen(folder)[0] == "tensorrt"
    assert machine.opened[-1] == "a.plan"


@pytest.mark.parametrize("flavor", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_that_is_asked_for_and_not_there(folder: Path, machine: Machine, flavor: str) -> None:
    said = refused(folder, flavor)
    assert f"has no engine of {flavor}; build one: skipvit-to-trt --flavor " in said
    assert command_in(said).source == folder


def test_an_engine_that_nobody_verified_is_not_run(folder: Path, machine: Machine) -> None:
    add_engine(folder, status="built, not run")
    said = refused(folder, "tensorrt")
    assert "is built, not run; verify it on this machine: " in said
    assert (command_in(said).source, command_in(said).precision) == (folder, "fp16")
    assert not machine.opened


def test_an_invalid_plan_that_is_asked_for_offers_to_rebuild(folder: Path, machine: Machine) -> None:
    add_engine(folder, content=b"damaged")
    said = refused(folder, "tensorrt")
    assert "rebuild it: " in said
    assert command_in(said).force


def test_tensorrt_that_is_asked_for_and_not_installed(folder: Path, machine: Machine) -> None:
    add_engine(folder)
    machine.installed.clear()
    assert "tensorrt is not installed; run: pip install" in refused(folder, "tensorrt")


@pytest.mark.skipif(has_cuda_build(), reason="ONNX Runtime is the one with CUDA here")
def test_cuda_that_is_asked_for_and_not_installed(folder: Path) -> None:
    """For real: the ONNX Runtime of the tests is the one for CPUs."""
    command = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'skipvit[serve-gpu]'"
    assert command in refused(folder, "onnx-cuda")


def test_the_program_ends_with_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder.parent.parent), "--engine", "tensorrt"]) == 1
    assert capsys.readouterr().err.startswith("skipvit-serve: ")
    assert main([str(folder.parent.parent), "--engine", "fast"]) == 1
    assert "--engine or SKIPVIT_ENGINE is 'fast'" in capsys.readouterr().err


def test_a_model_that_cannot_be_had_closes_those_before_it(tmp_path: Path, machine: Machine) -> None:
    add_engine(write_model(tmp_path, "a"))
    write_model(tmp_path, "b")
    with pytest.raises(EngineUnavailable, match="b/1 has no engine of tensorrt"):
        Repository.open(tmp_path, Settings(engine="tensorrt"))
    assert machine.opened == ["model.fp16.plan"]
    assert machine.device.leftovers == (0, 0, 0)


def test_the_server_runs_an_engine_and_says_so(folder: Path, machine: Machine) -> None:
    """Classifications through the app, two engine threads and padded buckets."""
    add_engine(folder)
    add_engine(folder, "other.plan", precision="fp32")  # which does not run

    async def scenario(client: httpx.AsyncClient) -> None:
        [model] = (await client.get("/v1/models")).json()["models"]
        assert model["engine"] == {
            "kind": "tensorrt", "file": "model.fp16.plan", "precision": "fp16", "device": "Fake GPU",
            "why": "it is the fastest that is verified here",
        }  # fmt: skip
        assert model["max_batch"] == 8, "the engine's largest batch"
        assert [parity["file"] for parity in model["parity"]][-1] == "model.fp16.plan"
        for level in (0, 85, 170, 255):
            answer = await client.post("/v1/classify", content=png(level), headers={"Content-Type": "image/png"})
            assert answer.status_code == 200
            assert answer.json()["results"][0]["predictions"][0]["label"] == str(round(9 * level / 255))

    run(folder.parent.parent, scenario, Settings(decode_threads=2))
    assert machine.device.leftovers == (0, 0, 0)


def test_a_gpu_that_is_lost_at_warm_up_fails_the_server(folder: Path, machine: Machine) -> None:
    add_engine(folder)
    repository = Repository.open(folder.parent.parent, Settings())
    machine.device.lost = True
    repository.warm_up()
    assert repository.state == "failed"
    assert "no longer answers" in str(repository.failure)
    repository.close()


def test_a_photograph_goes_through_an_engine_in_tiles(tmp_path: Path, machine: Machine) -> None:
    """Tiles of the manifest's size, of an engine that takes several, in batches of two threads."""
    machine.models[b"plan"] = denoiser(largest=4, sides=(32, 64, 96), name="images")
    folder = write_denoiser(tmp_path / "models", kind="inverse")
    add_engine(folder, shapes={"images": [[1, 32, 32, 3], [2, 64, 64, 3], [4, 96, 96, 3]]})
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8))

    async def scenario(client: httpx.AsyncClient) -> None:
        [model] = (await client.get("/v1/models")).json()["models"]
        assert model["engine"]["kind"] == "tensorrt"
        machine.models[b"plan"].runs_made.clear()
        answer = await client.post("/v1/denoise", content=encoded(photograph), headers={"Content-Type": "image/png"})
        assert answer.status_code == 200
        with Image.open(io.BytesIO(answer.content)) as found:
            np.testing.assert_array_equal(np.asarray(found), 255 - np.asarray(photograph))
        assert sum(machine.models[b"plan"].runs_made) >= 12, "tiles of 64 pixels"
        assert max(machine.models[b"plan"].runs_made) > 1, "tiles share batches"

    run(tmp_path / "models", scenario, Settings(decode_threads=2))
    assert machine.device.leftovers == (0, 0, 0)


@pytest.mark.parametrize(
    ("task", "on_gpu", "settings", "found"),
    [
        ("classification", False, {}, (0, 16, 0.008)),
        ("classification", True, {}, (2, 64, 0.025)),
        ("denoising", True, {}, (2, 64, 0.025)),
        ("classification", True, {"engine_threads": 3, "max_batch": 4, "batch_budget_ms": 5}, (3, 4, 0.005)),
        ("denoising", False, {"tile_threads": 3}, (3, 16, 0.008)),
    ],
)
def test_capacity(task: Any, on_gpu: bool, settings: dict[str, Any], found: tuple[int, int, float]) -> None:
    capacity = Capacity.of(Settings(**settings), "any", task, on_gpu)
    assert (capacity.threads, capacity.max_batch, capacity.budget_s) == found


@pytest.mark.parametrize(
    ("on_gpu", "threads", "batch", "ahead"), [(False, 2, 8, 3), (False, 3, 1, 5), (True, 2, 8, 24)]
)
def test_tiles_in_flight_fill_a_gpus_batches(on_gpu: bool, threads: int, batch: int, ahead: int) -> None:
    settings = Settings(tile_threads=threads)
    assert Capacity.of(settings, "any", "denoising", on_gpu).tiles_ahead(batch) == ahead
    asked = Settings(tile_threads=threads, max_tiles_in_flight=7)
    assert Capacity.of(asked, "any", "denoising", on_gpu).tiles_ahead(batch) == 7


def test_a_model_that_was_handed_over_runs_as_before(folder: Path) -> None:
    entry = entry_of(folder)
    model = ServedModel(entry, OnnxCpuEngine.from_entry(entry), Settings(), CLASSES)
    assert model.engine_info.kind == "onnx-cpu"
    assert model.batcher.max_batch == 16
    assert not model.batcher.has_threads


def test_a_server_without_engines_loads_neither_tensorrt_nor_cuda(folder: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom serve.models.repository import Repository\nfrom serve.settings "
        f"import Settings\nimport serve.cli\nRepository.open(Path({str(folder.parent.parent)!r}), Settings()).close()\n"
        "names = ('tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda', 'torch')\n"
        "sys.exit(', '.join(name for name in names if name in sys.modules) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
