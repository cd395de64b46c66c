"""The model repository: what export writes and the server, or Triton, reads.

    models/<name>/config.pbtxt  labels.txt
    models/<name>/<version>/manifest.json model.onnx [model.fp16.onnx] [model.*.plan] [sample-*.png] [compared-*.png]

A denoiser has no labels.txt; samples are for a page to show, the other pictures for engines to be compared on. Nothing
here imports torch. skipvit.publishing writes what this module reads. Reading trusts no byte of the folder: sizes are
bounded, names must be plain, the schema and every hash are checked, and the error names the file at fault.

    ArtifactError
    ├── ArtifactMissing    a folder or file that should be there is not
    ├── ArtifactCorrupt    unreadable, wrong hash, or contradicting its manifest
    └── ArtifactTooNew     written by a newer skipvit
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from skipvit.manifest import SCHEMA_VERSION, Manifest, Precision, Tiling, is_name
from skipvit.transforms import Preprocessing

MANIFEST = "manifest.json"
LABELS = "labels.txt"
TRITON_CONFIG = "config.pbtxt"

_MAX_MANIFEST_BYTES = 1 << 20
_MAX_LABELS_BYTES = 16 << 20
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class ArtifactError(Exception):
    """Something in a model repository cannot be used; the message names it and says what to do."""


class ArtifactMissing(ArtifactError):
    """A folder or file that should be there is not."""


class ArtifactCorrupt(ArtifactError):
    """A file is unreadable, has the wrong hash, or contradicts its manifest."""


class ArtifactTooNew(ArtifactError):
    """The manifest's schema is newer than this skipvit."""


@dataclass(frozen=True)
class Entry:
    """One verified version of one model: its manifest, its folder, its labels in class order."""

    manifest: Manifest
    folder: Path
    labels: tuple[str, ...]

    @property
    def preprocessing(self) -> Preprocessing:
        """How a classifier's pictures are brought to its size; every classifier has one."""
        assert self.manifest.preprocessing is not None, "asked of a denoiser, which takes pictures as they are"
        return self.manifest.preprocessing

    @property
    def tiling(self) -> Tiling:
        """How a denoiser's pictures are cut; every denoiser has one."""
        assert self.manifest.tiling is not None, "asked of a classifier, which takes pictures whole"
        return self.manifest.tiling

    def model_path(self, precision: Precision | None = None) -> Path:
        """Path of the ONNX file of ``precision``, or of the first in the manifest.

        Raises:
            ArtifactMissing: this version has no file of that precision.
        """
        models = self.manifest.models
        if precision is None:
            precision = next(iter(models))
        if precision not in models:
            raise ArtifactMissing(
                f"{self.folder} has no {precision} model, only {', '.join(models)}; "
                f"export it again with --precision {precision}"
            )
        return self.folder / models[precision]


def check_version(version: int) -> int:
    """Returns ``version`` if it may number a version.

    Raises:
        ValueError: it is below 1 or too long to be one.
    """
    if not _VERSION.fullmatch(str(version)):
        raise ValueError(f"a version is a whole number from 1 up, of at most 18 digits, got {version}")
    return version


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- reading ---


def model_names(root: Path) -> list[str]:
    """Names of the models in a repository, sorted; folders that hold no version are left out.

    Raises:
        ArtifactMissing: ``root`` is not a folder.
    """
    if not root.is_dir():
        raise ArtifactMissing(
            f"model repository {root} is not a folder; make one with `make demo-models` or `skipvit-to-onnx`"
        )
    return sorted(p.name for p in root.iterdir() if is_name(p.name) and p.is_dir() and versions_of(p))


def versions_of(model_folder: Path) -> list[int]:
    """Version numbers present in a model's folder, ascending."""
    if not model_folder.is_dir():
        return []
    return sorted(int(p.name) for p in model_folder.iterdir() if _VERSION.fullmatch(p.name) and p.is_dir())


def read_entry(root: Path, name: str, version: int | None = None, *, whole_engines_only: bool = False) -> Entry:
    """Reads and verifies one version of a model, the latest unless told otherwise.

    Args:
        whole_engines_only: leave out engines whose file is gone or damaged, to build them again, instead of raising.

    Raises:
        ArtifactMissing, ArtifactCorrupt, ArtifactTooNew: see the module's docstring.
    """
    model_folder = root / name
    versions = versions_of(model_folder)
    if not versions:
        raise ArtifactMissing(f"model {name!r}: no version folder such as {model_folder / '1'}; export the model first")
    version = versions[-1] if version is None else version
    if version not in versions:
        raise ArtifactMissing(f"model {name!r} has no version {version}, only {versions}")
    folder = model_folder / str(version)
    manifest = _read_manifest(folder / MANIFEST)
    if (manifest.name, manifest.version) != (name, version):
        raise ArtifactCorrupt(
            f"{folder / MANIFEST} is for {manifest.name!r} version {manifest.version}, but lies in the folder of "
            f"{name!r} version {version}; restore the folder's name or export again"
        )
    manifest = _verified(manifest, folder, model_folder, whole_engines_only)
    labels = _read_labels(model_folder / LABELS) if LABELS in manifest.files else ()
    classes = manifest.outputs[-1].shape[-1]
    if manifest.task == "classification" and labels and len(labels) != classes:
        raise ArtifactCorrupt(
            f"{model_folder / LABELS} has {len(labels)} labels, but the model gives {classes} classes; export again"
        )
    return Entry(manifest, folder, labels)


def _read_manifest(path: Path) -> Manifest:
    raw = _read_bounded(path, _MAX_MANIFEST_BYTES)
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ArtifactCorrupt(f"{path} is not JSON ({error}); export the model again") from None
    schema = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(schema, int | float) and schema > SCHEMA_VERSION:
        raise ArtifactTooNew(
            f"{path} has schema {schema}, this skipvit reads up to {SCHEMA_VERSION}; upgrade skipvit or export again"
        )
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ArtifactCorrupt(f"{path}: {where}: {first['msg']}; export the model again") from None
    unlisted = [file for file in manifest.models.values() if file not in manifest.files or file == LABELS]
    if unlisted:
        raise ArtifactCorrupt(f"{path} gives no sha256 for {', '.join(unlisted)}; export the model again")
    return manifest


def _verified(manifest: Manifest, folder: Path, model_folder: Path, whole_engines_only: bool) -> Manifest:
    """The manifest, without damaged engines if they may be left out; any other file that is not whole raises."""
    engines = {engine.file: engine for engine in manifest.engines if engine.file not in manifest.models.values()}
    damaged = set()
    for name, expected in manifest.files.items():
        path = (model_folder if name == LABELS else folder) / name
        cure = f"build it again: {engines[name].build_command(folder)}" if name in engines else ""
        try:
            _verify_file(path, expected, cure)
        except ArtifactError:
            if not (whole_engines_only and name in engines):
                raise
            damaged.add(name)
    if not damaged:
        return manifest
    kept = tuple(engine for engine in manifest.engines if engine.file not in damaged)
    files = {name: known for name, known in manifest.files.items() if name not in damaged}
    return manifest.model_copy(update={"engines": kept, "files": files})


def _verify_file(path: Path, expected: str, cure: str) -> None:
    if not path.is_file():
        raise ArtifactMissing(
            f"{path} is named by the manifest but is not there; {cure or 'copy it back or export again'}"
        )
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ArtifactCorrupt(f"{path} cannot be read: {error.strerror}; check who may read it") from None
    if found != expected:
        raise ArtifactCorrupt(
            f"{path} has sha256 {found[:12]}…, the manifest says {expected[:12]}…; "
            f"the file was changed or cut short: {cure or 'copy it again or export again'}"
        )


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        text = _read_bounded(path, _MAX_LABELS_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactCorrupt(f"{path} is not UTF-8 ({error}); write one label a line in UTF-8") from None
    return tuple(text.splitlines())


def _read_bounded(path: Path, limit: int) -> bytes:
    if not path.is_file():  # a pipe or a device would be waited for
        raise ArtifactMissing(
            f"{path} is not there, or is no file; copy it back, export the model again, or move a folder that "
            "is no export of skipvit's elsewhere"
        )
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise ArtifactCorrupt(f"{path} cannot be read: {error}") from None
    if len(raw) > limit:
        raise ArtifactCorrupt(f"{path} is over {limit} bytes, which no such file of skipvit's is; export again")
    return raw
