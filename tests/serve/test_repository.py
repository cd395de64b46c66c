"""Broken repositories are refused with a message that names the file; good ones are warmed within the budget."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import onnx
import pytest

from serve.engines.engine import OnnxCpuEngine
from serve.errors import BadField, NotFound
from serve.models import loading
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.settings import Settings
from skipvit.artifacts import LABELS, MANIFEST, ArtifactCorrupt, ArtifactError, read_entry, sha256_of
from skipvit.manifest import Tiling
from tests.serve.denoisers import denoiser, write_denoiser
from tests.serve.servers import CLASSES, brightness_model, write_model

SETTINGS = Settings(engine_threads=1)


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite_model(folder: Path, content: bytes) -> None:
    """Replaces the model and its hash, so that only its content is at fault."""
    (folder / "model.onnx").write_bytes(content)
    rehash(folder)


def rehash(folder: Path) -> None:
    files = {"model.onnx": folder / "model.onnx", LABELS: folder.parent / LABELS}
    edit_manifest(folder, files={name: sha256_of(path) for name, path in files.items() if path.exists()})


def rewrite_labels(folder: Path, content: str) -> None:
    (folder.parent / LABELS).write_text(content)
    rehash(folder)


def fixed_batch() -> bytes:
    model = brightness_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return bytes(model.SerializeToString())


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "model missing": (lambda f: (f / "model.onnx").unlink(), r"model\.onnx is named by the manifest but is not there"),
    "model changed": (lambda f: (f / "model.onnx").write_bytes(b"x"), r"model\.onnx has sha256"),
    "model no ONNX": (lambda f: rewrite_model(f, b"no protobuf"), r"model\.onnx cannot be loaded by ONNX Runtime"),
    "manifest missing": (
        lambda f: shutil.copytree(f, f.parent / "2", ignore=lambda *_: [MANIFEST]),
        r"2/manifest\.json is not there",
    ),
    "output without axes": (
        lambda f: edit_manifest(f, outputs=[{"name": "probabilities", "dtype": "float32", "shape": []}]),
        r"manifest\.json: outputs\.0\.shape: ",
    ),
    "manifest cut": (lambda f: (f / MANIFEST).write_text("{"), r"manifest\.json is not JSON"),
    "newer schema": (
        lambda f: edit_manifest(f, schema_version=99),
        r"manifest\.json has schema 99, this skipvit reads",
    ),
    "other folder": (lambda f: f.rename(f.parent / "7"), r"is for 'shades' version 1, but lies in"),
    "labels short": (lambda f: rewrite_labels(f, "a\nb\n"), r"labels\.txt has 2 labels, .* 10 classes"),
    "labels changed": (lambda f: (f.parent / LABELS).write_text("a\n" * 10), r"labels\.txt has sha256"),
    "another size": (
        lambda f: rewrite_model(f, brightness_model(side=16).SerializeToString()),
        r"takes tensor\(uint8\) \['batch', 16, 16, 3\], its manifest says tensor\(uint8\) \['batch', 8, 8, 3\]",
    ),
    "another output": (
        lambda f: rewrite_model(f, brightness_model(output="scores").SerializeToString()),
        r"has outputs \['logits', 'scores'\], not 'probabilities'",
    ),
    "fixed batch": (lambda f: rewrite_model(f, fixed_batch()), "takes batches of 1 only"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_models_are_named(tmp_path: Path, kind: str) -> None:
    break_it, message = BREAKS[kind]
    break_it(write_model(tmp_path))
    with pytest.raises(ArtifactError, match=message):
        Repository.open(tmp_path, SETTINGS)


def test_another_input_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    edit_manifest(folder, inputs=[{"name": "pixels", "dtype": "uint8", "shape": ["batch", 8, 8, 3]}])
    with pytest.raises(ArtifactError, match=r"has inputs \['image'\], its manifest says 'pixels'"):
        Repository.open(tmp_path, SETTINGS)


def test_an_input_of_floats(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    model = brightness_model()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    rewrite_model(folder, model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"takes tensor\(float\)"):
        Repository.open(tmp_path, SETTINGS)


DENOISER_BREAKS: dict[str, tuple[dict[str, Any], str]] = {
    "fixed size": (
        {"graph": denoiser(shape=["batch", 32, 32, 3])},
        r"takes tensor\(uint8\) \['batch', 32, 32, 3\], its manifest says tensor\(uint8\) \['batch', 64, 64, 3\]",
    ),
    "another size out": (
        {"graph": denoiser("half")},
        r"makes \[32, 64, 3\] of \[64, 64, 3\], the tile of its manifest",
    ),
    "a tile it cannot take": (
        {"graph": denoiser("blur"), "tiling": Tiling(tile=1, halo=0, multiple=1)},
        r"cannot take \[1, 1, 3\], the tile of its manifest",
    ),
    "no step left": (
        {"tiling": Tiling(tile=64, halo=24, multiple=32)},
        r"manifest\.json: tiles of 64 pixels with a halo of 24 on both sides leave less than one step of 32",
    ),
    "a classifier": ({"graph": brightness_model(64)}, r"has inputs \['image'\], its manifest says 'images'"),
}


@pytest.mark.parametrize("kind", DENOISER_BREAKS)
def test_denoisers_that_cannot_take_their_tiles_are_named(tmp_path: Path, kind: str) -> None:
    changes, message = DENOISER_BREAKS[kind]
    write_denoiser(tmp_path, **changes)
    with pytest.raises(ArtifactError, match=message):
        Repository.open(tmp_path, SETTINGS)


def test_a_denoiser_of_floats_is_refused(tmp_path: Path) -> None:
    graph = denoiser()
    graph.graph.node.append(onnx.helper.make_node("Cast", ["images"], ["floats"], to=onnx.TensorProto.FLOAT))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("floats", onnx.TensorProto.FLOAT, ["b", "h", "w", 3]))
    graph.graph.output[0].name, graph.graph.output[1].name = "other", "denoised"
    graph.graph.node[0].output[0], graph.graph.node[1].output[0] = "other", "denoised"
    write_denoiser(tmp_path, graph=graph)
    with pytest.raises(ArtifactError, match=r"denoised is tensor\(float\) .*, needed is tensor\(uint8\)"):
        Repository.open(tmp_path, SETTINGS)


def test_models_of_all_tasks_live_together(tmp_path: Path) -> None:
    for name in ("b", "d"):
        write_model(tmp_path, name)
    for name in ("a", "c"):
        write_denoiser(tmp_path, name)
    repository = Repository.open(tmp_path, SETTINGS)
    assert repository.get(None, "classification").name == "b"
    assert repository.get(None, "denoising").name == "a"
    assert repository.get("c", "denoising").tiling.tile == 64
    assert repository.models["a"].batcher.has_threads
    with pytest.raises(BadField, match="model 'a' is for denoising, and /v1/classify is for classification"):
        repository.get("a", "classification")
    with pytest.raises(NotFound, match="no model for video-denoising is served here"):
        repository.get(None, "video-denoising")


def test_no_models_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no model such as .* make one with"):
        Repository.open(tmp_path, SETTINGS)
    write_model(tmp_path / "models")
    with pytest.raises(ArtifactError, match="is one model, not a folder of models; give its parent"):
        Repository.open(tmp_path / "models" / "shades", SETTINGS)
    with pytest.raises(ArtifactError, match="is not a folder"):
        Repository.open(tmp_path / "nowhere", SETTINGS)
    with pytest.raises(ValueError, match="at least one model"):
        Repository([])


def test_the_latest_version_of_every_model_is_served(tmp_path: Path) -> None:
    write_model(tmp_path, "b", 1)
    write_model(tmp_path, "b", 12)
    write_model(tmp_path, "a", 3)
    (tmp_path / "notes").mkdir()  # not a model, and no reason to fail
    repository = Repository.open(tmp_path, SETTINGS)
    assert [(m.name, m.version) for m in repository.models.values()] == [("a", "3"), ("b", "12")]
    assert repository.get(None, "classification").name == "a"
    assert repository.get("b", "classification").name == "b"
    with pytest.raises(NotFound, match="there is no model 'c'") as caught:
        repository.get("c", "classification")
    assert "a, b" in caught.value.hint


def test_versions_before_a_broken_one_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (1, 2):
        write_model(tmp_path, version=version)
    opened: list[Mock] = []

    def load(_root: Path, _name: str, version: int, _settings: Settings) -> Mock:
        if version == 2:
            raise ArtifactCorrupt("it is broken")
        opened.append(Mock())
        return opened[-1]

    monkeypatch.setattr(loading, "load_version", load)
    with pytest.raises(ArtifactCorrupt):
        Repository.open(tmp_path, Settings(models={"shades": {"versions": "all"}}))  # type: ignore[misc]
    opened[0].close.assert_called_once_with()


def test_a_model_without_labels_answers_with_class_numbers(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder.parent / LABELS).unlink()
    rehash(folder)
    assert Repository.open(tmp_path, SETTINGS).get(None, "classification").labels == ()


@pytest.mark.parametrize(("run_s", "largest"), [(0.0, 8), (0.05, 1)])
def test_warm_up_finds_the_batch_that_fits_the_budget(tmp_path: Path, run_s: float, largest: int) -> None:
    import time

    write_model(tmp_path)
    entry = read_entry(tmp_path, "shades")

    class SlowEngine(OnnxCpuEngine):
        def run(self, batch):  # type: ignore[no-untyped-def]
            time.sleep(run_s * len(batch))
            return super().run(batch)

    settings = Settings(engine_threads=1, max_batch=8, batch_budget_ms=70)
    model = ServedModel(entry, SlowEngine.from_entry(entry), settings, CLASSES)
    model.warm_up()
    assert model.batcher.max_batch == largest
    assert (model.batcher.max_wait_s > 0) is (largest > 1)


def test_a_warm_up_that_fails_is_kept_for_the_caller(tmp_path: Path) -> None:
    write_model(tmp_path)
    entry = read_entry(tmp_path, "shades")
    engine = OnnxCpuEngine.from_entry(entry)
    model = ServedModel(entry, engine, SETTINGS, CLASSES)
    model.row = (9, 9, 3)  # not what the graph takes
    repository = Repository([model])
    repository.warm_up()
    assert repository.state == "failed"
    assert repository.failure is not None


def test_a_drain_ends_the_warm_up_after_the_model_that_it_is_at(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, warmed = Repository.open(models_dir, SETTINGS), []

    def warm_up(model: ServedModel) -> None:
        warmed.append(model.name)
        repository.drain()

    monkeypatch.setattr(ServedModel, "warm_up", warm_up)
    repository.start(lambda callback: callback(), lambda model, report: None)
    repository.warm_up()
    assert warmed == [repository.served[0].name]
    assert repository.state == "draining"
    repository.close()
