"""The model repository: written whole or not at all, and read with every doubt that a stranger's folder deserves."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipvit import artifacts, publishing
from skipvit.artifacts import ArtifactCorrupt, ArtifactError, ArtifactMissing, ArtifactTooNew, read_entry
from skipvit.manifest import Manifest, Parity, Tensor, check_name
from skipvit.transforms import Preprocessing


def manifest_of(name: str = "digits", version: int = 1, files: dict[str, str] | None = None) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        task="classification",
        architecture="vit",
        inputs=(Tensor(name="images", dtype="uint8", shape=("batch", 8, 8, 3)),),
        outputs=(Tensor(name="probabilities", dtype="float32", shape=("batch", 2)),),
        preprocessing=Preprocessing(height=8, width=8),
        weights_from="nowhere",
        created="2026-01-01T00:00:00+00:00",
        commit="abc",
        versions={},
        models={"fp32": "model.onnx"},
        files=files or {},
        parity=(
            Parity(
                file="model.onnx", precision="fp32", engine="e", images=1, images_from="x", max_abs=0, mean_abs=0,
                max_relative=0, top1_agreement=1, tolerance="t",
            ),
        ),
        macs=1,
        params=1,
    )  # fmt: skip


def write(root: Path, version: int = 1) -> Path:
    with publishing.new_version(root, "digits", version) as staging:
        (staging / "model.onnx").write_bytes(b"graph")
        labels = root / "digits" / "labels.txt"
        labels.write_text("nought\none\n")
        files = {**publishing.hashes_of(staging), "labels.txt": artifacts.sha256_of(labels)}
        publishing.write_atomically(staging / "manifest.json", manifest_of(version=version, files=files).to_json())
    return root / "digits" / str(version)


def test_round_trip(tmp_path: Path) -> None:
    folder = write(tmp_path)
    write(tmp_path, 3)
    entry = read_entry(tmp_path, "digits", 1)
    assert entry.labels == ("nought", "one")
    assert entry.model_path() == folder / "model.onnx"
    assert entry.manifest.files["model.onnx"] == hashlib.sha256(b"graph").hexdigest()
    assert read_entry(tmp_path, "digits").manifest.version == 3
    assert artifacts.model_names(tmp_path) == ["digits"]
    assert artifacts.versions_of(tmp_path / "digits") == [1, 3]
    assert publishing.next_version(tmp_path, "digits") == 4
    assert publishing.next_version(tmp_path, "other") == 1
    with pytest.raises(ArtifactMissing, match="has no fp16 model, only fp32; export it again with --precision fp16"):
        entry.model_path("fp16")


def test_an_unfinished_version_is_never_seen(tmp_path: Path) -> None:
    def interrupted() -> None:
        with publishing.new_version(tmp_path, "digits", 1) as staging:
            (staging / "model.onnx").write_bytes(b"half")
            assert artifacts.model_names(tmp_path) == []
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path)
    with (
        pytest.raises(ArtifactError, match="exists; give another --version"),
        publishing.new_version(tmp_path, "digits", 1),
    ):
        pass
    assert (tmp_path / "digits" / "1" / "model.onnx").read_bytes() == b"graph"


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def full_disk(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        publishing.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


BREAKAGES: list[tuple[str, Callable[[Path], object], type[ArtifactError], str]] = [
    ("no manifest", lambda f: (f / "manifest.json").unlink(), ArtifactMissing, r"manifest\.json is not there"),
    ("not json", lambda f: (f / "manifest.json").write_text("{"), ArtifactCorrupt, r"manifest\.json is not JSON"),
    ("a list", lambda f: (f / "manifest.json").write_text("[]"), ArtifactCorrupt, "the document"),
    ("deep json", lambda f: (f / "manifest.json").write_text("[" * 100_000), ArtifactCorrupt, "is not JSON"),
    ("bytes", lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"), ArtifactCorrupt, "is not JSON"),
    ("huge", lambda f: (f / "manifest.json").write_text(" " * (1 << 21)), ArtifactCorrupt, "is over 1048576 bytes"),
    ("newer", lambda f: edit(f, lambda d: d.update(schema_version=99)), ArtifactTooNew, "schema 99.*reads up to 3"),
    ("newer text", lambda f: edit(f, lambda d: d.update(schema_version="99")), ArtifactCorrupt, "schema_version"),
    ("newer float", lambda f: edit(f, lambda d: d.update(schema_version=99.0)), ArtifactTooNew, r"schema 99\.0"),
    ("older", lambda f: edit(f, lambda d: d.update(schema_version=-7)), ArtifactCorrupt, "schema_version"),
    ("true version", lambda f: edit(f, lambda d: d.update(version=True)), ArtifactCorrupt, "version: Input should be"),
    ("labels as model", lambda f: edit(f, lambda d: d["models"].update(fp32="labels.txt")), ArtifactCorrupt, "no sha"),
    ("no spread", lambda f: edit(f, lambda d: d["preprocessing"].update(std=[0, 1, 1])), ArtifactCorrupt, "std"),
    ("infinite", lambda f: edit(f, lambda d: d["parity"][0].update(max_abs=1e999)), ArtifactCorrupt, "max_abs"),
    ("classes", lambda f: edit(f, lambda d: d["outputs"][0].update(shape=[1, 9])), ArtifactCorrupt, "2 labels.*9"),
    ("unknown key", lambda f: edit(f, lambda d: d.update(colour=1)), ArtifactCorrupt, "colour: Extra inputs"),
    ("no task", lambda f: edit(f, lambda d: d.pop("task")), ArtifactCorrupt, "task: Field required"),
    ("no hash", lambda f: edit(f, lambda d: d.update(files={})), ArtifactCorrupt, r"no sha256 for model\.onnx"),
    ("other name", lambda f: edit(f, lambda d: d.update(name="cats")), ArtifactCorrupt, "is for 'cats' version 1"),
    ("escape", lambda f: edit(f, lambda d: d["files"].update({"../../x": "0"})), ArtifactCorrupt, "cannot name"),
    ("changed", lambda f: (f / "model.onnx").write_bytes(b"graff"), ArtifactCorrupt, r"model\.onnx has sha256"),
    ("gone", lambda f: (f / "model.onnx").unlink(), ArtifactMissing, r"model\.onnx is named by the manifest"),
    ("labels", lambda f: (f.parent / "labels.txt").write_text("a\n"), ArtifactCorrupt, r"labels\.txt has sha256"),
    ("no labels", lambda f: (f.parent / "labels.txt").unlink(), ArtifactMissing, r"labels\.txt is named"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "error", "match"), [b[1:] for b in BREAKAGES], ids=[b[0] for b in BREAKAGES])
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], error: type[Exception], match: str) -> None:
    damage(write(tmp_path))
    with pytest.raises(error, match=match):
        read_entry(tmp_path, "digits")


@pytest.mark.parametrize("damage", [Path.unlink, lambda plan: plan.write_bytes(b"cut")], ids=["gone", "changed"])
def test_a_damaged_engine_is_named_or_left_out_to_be_built_again(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = write(tmp_path)
    shape = [[1, 8, 8, 3]] * 3
    engine = {
        "file": "a.plan", "made_from": "model.onnx", "precision": "fp16", "flavor": "tensorrt-rtx",
        "flavor_version": "1", "gpu": "none", "compute_capability": "7.5+", "shapes": {"images": shape}, "plugins": {},
        "bodies": {}, "options": {}, "status": "built, not run",
    }  # fmt: skip
    digest = hashlib.sha256(b"plan").hexdigest()
    for file in ("a.plan", "b.plan"):
        (folder / file).write_bytes(b"plan")
        edit(folder, lambda data, file=file: data.setdefault("engines", []).append({**engine, "file": file}))  # type: ignore[misc]
        edit(folder, lambda data, file=file: data["files"].update({file: digest}))  # type: ignore[misc]
    damage(folder / "a.plan")
    with pytest.raises(ArtifactError, match=rf"a\.plan .*: skipvit-to-trt {folder} --flavor rtx --precision fp16$"):
        read_entry(tmp_path, "digits")
    manifest = read_entry(tmp_path, "digits", whole_engines_only=True).manifest
    assert [known.file for known in manifest.engines] == ["b.plan"]
    assert "a.plan" not in manifest.files
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactMissing, match=r"model\.onnx is named by the manifest"):
        read_entry(tmp_path, "digits", whole_engines_only=True)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match="nothing is not a folder; make one with"):
        artifacts.model_names(tmp_path / "nothing")
    with pytest.raises(ArtifactMissing, match="no version folder"):
        read_entry(tmp_path, "cats")
    write(tmp_path)
    with pytest.raises(ArtifactMissing, match=r"has no version 7, only \[1\]"):
        read_entry(tmp_path, "digits", 7)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(ArtifactMissing, match="is not there, or is no file"):
        read_entry(tmp_path, "digits")


def test_only_plain_numbers_are_versions(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("1\u0663", "01", "0", "1" * 19, "2 "):
        (tmp_path / "digits" / name).mkdir()
    assert artifacts.versions_of(tmp_path / "digits") == [1]
    for version in (0, -1, 10**18):
        with pytest.raises(ValueError, match="whole number from 1 up"), publishing.new_version(tmp_path, "a", version):
            pass
    assert not (tmp_path / "a").exists()


def test_two_exports_at_once_leave_one(tmp_path: Path) -> None:
    def racing() -> None:
        with publishing.new_version(tmp_path, "digits", 1) as staging:
            (staging / "late").touch()
            write(tmp_path)

    with pytest.raises(ArtifactError, match="was written by another run meanwhile"):
        racing()
    assert sorted(p.name for p in (tmp_path / "digits").iterdir()) == ["1", "labels.txt"]
    assert read_entry(tmp_path, "digits").model_path().read_bytes() == b"graph"


@given(st.text(max_size=200))
def test_names_stay_in_their_folder(name: str) -> None:
    try:
        check_name(name)
    except ValueError:
        return
    assert Path("/models") == (Path("/models") / name).resolve().parent
    assert name.isascii()


def denoiser_of(**changes: object) -> Manifest:
    tensor = Tensor(name="images", dtype="uint8", shape=("batch", "height", "width", 3))
    fields = manifest_of().model_dump() | {
        "task": "denoising", "preprocessing": None, "outputs": (tensor,), "parity": (),
        "tiling": {"tile": 64, "halo": 8, "multiple": 32},
        "samples": ("sample-cat.png",), "files": {"sample-cat.png": "0"},
    }  # fmt: skip
    return Manifest(**(fields | changes))


def test_a_denoisers_manifest_survives_json() -> None:
    manifest = denoiser_of()
    assert Manifest.model_validate_json(manifest.to_json()) == manifest
    assert manifest.schema_version == 3


def test_a_manifest_from_before_denoisers_is_read() -> None:
    """Version 1 had none of the new fields."""
    old = json.loads(manifest_of().to_json())
    for field in ("tiling", "samples"):
        del old[field]
    del old["parity"][0]["psnr_db"]
    manifest = Manifest.model_validate_json(json.dumps(old | {"schema_version": 1}))
    assert (manifest.task, manifest.tiling, manifest.samples) == ("classification", None, ())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tiling": None}, "a manifest for denoising needs tiling"),
        ({"task": "classification"}, "a manifest for classification needs preprocessing"),
        ({"tiling": {"tile": 100, "halo": 8, "multiple": 32}}, "a tile of 100 is no multiple of 32"),
        ({"tiling": {"tile": 64, "halo": 32, "multiple": 32}}, "halos of 32 on both sides leave nothing"),
        ({"tiling": {"tile": 64, "halo": 8, "multiple": 32, "frames": 3, "lead": 2, "lag": 1}}, "leave none of 3"),
        ({"samples": ("sample-dog.png",)}, r"sample-dog\.png have no sha256"),
    ],
)
def test_a_denoisers_manifest_that_contradicts_itself(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        denoiser_of(**changes)
