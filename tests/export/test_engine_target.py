"""Where engines go: entries and files stay whole whatever is written beside them, by however many runs at once."""

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import onnx
import pytest

from export.engine_graph import GraphError
from export.engine_target import EntryTarget, FileTarget, open_target
from skipvit import publishing
from skipvit.artifacts import MANIFEST, ArtifactError, read_entry
from skipvit.manifest import Engine, Precision
from tests.export.tiny_entry import tiny_graph, write_entry

ROOT = Path(__file__).resolve().parents[2]


def engine(file: str, precision: Precision = "fp16", **changes: object) -> Engine:
    fields: dict[str, object] = {
        "file": file,
        "made_from": "model.fp16.onnx" if precision == "fp16" else "model.onnx",
        "precision": precision,
        "flavor": "tensorrt-rtx",
        "flavor_version": "1.7",
        "gpu": "none",
        "compute_capability": "7.5+",
        "shapes": {"images": ((1, 8, 8, 3), (8, 8, 8, 3), (64, 8, 8, 3))},
        "plugins": {"EcaGate": 1},
        "bodies": {},
        "options": {},
        "status": "built, not run",
    }
    return Engine.model_validate({**fields, **changes})


def plan(folder: Path, content: bytes) -> Path:
    path = folder / f".new-{hashlib.sha256(content).hexdigest()[:8]}"
    path.write_bytes(content)
    return path


@pytest.fixture
def target(tmp_path: Path) -> EntryTarget:
    write_entry(tmp_path)
    return EntryTarget(read_entry(tmp_path, "tiny"), "fp16")


def test_an_engine_joins_the_manifest_and_replaces_its_predecessor(target: EntryTarget, tmp_path: Path) -> None:
    for content, version in ((b"first", "1.7"), (b"second", "1.8")):
        target.publish(plan(tmp_path, content), engine("a.plan", flavor_version=version))
    target.publish(plan(tmp_path, b"other"), engine("b.plan"))
    manifest = read_entry(tmp_path, "tiny").manifest
    assert [(e.file, e.flavor_version) for e in manifest.engines] == [("a.plan", "1.8"), ("b.plan", "1.7")]
    assert manifest.schema_version == 3
    assert (target.folder / "a.plan").read_bytes() == b"second"
    target.withdraw("a.plan")
    target.withdraw("never there")
    assert [e.file for e in read_entry(tmp_path, "tiny").manifest.engines] == ["b.plan"]
    assert not (target.folder / "a.plan").exists()


def test_the_entry_is_whole_at_every_step(target: EntryTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may end between any two renames: what it leaves is an entry that can be served."""
    target.publish(plan(tmp_path, b"first"), engine("a.plan"))
    write, replace = publishing.write_atomically, Path.replace
    seen = []

    def checked(step: str) -> None:
        seen.append((step, len(read_entry(tmp_path, "tiny").manifest.engines)))

    def watched_write(path: Path, content: str | bytes) -> None:
        write(path, content)
        checked(path.name)

    def watched_replace(path: Path, place: Path) -> Path:
        moved = replace(path, place)
        if place.name == "a.plan":
            checked("a.plan")
        return moved

    monkeypatch.setattr(publishing, "write_atomically", watched_write)
    monkeypatch.setattr(Path, "replace", watched_replace)
    target.publish(plan(tmp_path, b"second"), engine("a.plan"))
    assert seen == [(MANIFEST, 0), ("a.plan", 0), (MANIFEST, 1)]


def test_a_full_disk_leaves_no_engine_without_a_record(
    target: EntryTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in target.folder.iterdir())

    def full(path: Path, content: str | bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        target.publish(plan(tmp_path, b"first"), engine("a.plan"))
    assert sorted(path.name for path in target.folder.iterdir()) == before
    monkeypatch.undo()
    place = target.publish(plan(tmp_path, b"first"), engine("a.plan"))
    monkeypatch.setattr(publishing, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):  # the record alone is new: the engine is as good as before
        target.publish(place, engine("a.plan", gpu="A GPU"))
    (known,) = read_entry(tmp_path, "tiny").manifest.engines
    assert known.gpu == "none"


def test_a_full_disk_leaves_no_engine_beside_a_plain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(tiny_graph("fp32"), tmp_path / "net.onnx")

    def full(path: Path, content: str | bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        FileTarget(tmp_path / "net.onnx", None).publish(plan(tmp_path, b"x"), engine("net.plan", "fp32"))
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_runs_at_once_lose_nothing(target: EntryTarget, tmp_path: Path) -> None:
    files = [f"{i}.plan" for i in range(12)]
    others = [EntryTarget(read_entry(tmp_path, "tiny"), "fp16") for _ in files]  # all of them read the same manifest
    threads = [
        threading.Thread(target=other.publish, args=(plan(tmp_path, file.encode()), engine(file)))
        for other, file in zip(others, files, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {e.file for e in read_entry(tmp_path, "tiny").manifest.engines} == set(files)
    assert not list(target.folder.glob(".*"))


PUBLISH = """
import sys
from pathlib import Path
from export.engine_target import EntryTarget
from skipvit.artifacts import read_entry
from skipvit.manifest import Engine
root = Path(sys.argv[1])
target = EntryTarget(read_entry(root, "tiny"), "fp16")
engine = Engine.model_validate_json(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for i in range(10):
    file = f"{sys.argv[2]}-{i}.plan"
    (root / file).touch()
    target.publish(root / file, engine.model_copy(update={"file": file}))
"""


def test_processes_at_once_lose_nothing(target: EntryTarget, tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(tmp_path), name, engine("x.plan").model_dump_json()],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    found = {e.file for e in read_entry(tmp_path, "tiny").manifest.engines}
    assert found == {f"{name}-{i}.plan" for name in "ab" for i in range(10)}


def test_a_model_that_is_replaced_meanwhile_keeps_its_new_file(target: EntryTarget, tmp_path: Path) -> None:
    manifest = target.folder / MANIFEST
    old = target.graph.sha256
    onnx.save(tiny_graph("fp16", opset=18), target.folder / "model.fp16.onnx")
    new = hashlib.sha256((target.folder / "model.fp16.onnx").read_bytes()).hexdigest()
    manifest.write_text(manifest.read_text().replace(old, new))
    with pytest.raises(ArtifactError, match="was replaced while its engine was built; run again"):
        target.publish(plan(tmp_path, b"x"), engine("a.plan"))
    assert read_entry(tmp_path, "tiny").manifest.engines == ()


def test_the_fastest_exact_numbers_are_the_default(tmp_path: Path) -> None:
    folder = write_entry(tmp_path)
    assert open_target(folder, None, None, None).precision == "fp16"
    assert open_target(folder.parent, 1, "fp32", None).graph.path.name == "model.onnx"
    write_entry(tmp_path, "single", models={"fp32": "model.onnx"})
    assert open_target(tmp_path / "single", None, None, None).precision == "fp32"


def test_a_folder_of_models_is_no_model(tmp_path: Path) -> None:
    write_entry(tmp_path)
    with pytest.raises(GraphError, match="is a folder of models; give one of them: "):
        open_target(tmp_path, None, None, None)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 5}', "\xff", '{"sha256": "x", "file": []}'])
def test_a_record_that_is_none_is_no_engine(text: str, tmp_path: Path) -> None:
    onnx.save(tiny_graph("fp32"), tmp_path / "net.onnx")
    target = FileTarget(tmp_path / "net.onnx", None)
    assert target.known("net.plan") is None
    made = engine("net.plan", "fp32", made_from="net.onnx")
    target.publish(plan(tmp_path, b"x"), made)
    assert target.known("net.plan") == made
    (tmp_path / "net.plan.json").write_text(text, encoding="latin-1")
    assert target.known("net.plan") is None
    target.withdraw("net.plan")
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx"}
