"""Broken repositories are refused with a message that names the file; good ones are warmed within the budget."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from serve.engine import OnnxCpuEngine
from serve.errors import NotFound
from serve.repository import Repository, ServedModel
from serve.settings import Settings
from skipvit.artifacts import LABELS, MANIFEST, ArtifactError, read_entry, sha256_of
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
    "manifest missing": (lambda f: (f / MANIFEST).unlink(), r"manifest\.json is not there"),
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
