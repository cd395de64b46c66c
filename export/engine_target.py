"""Where an engine comes from and goes: an entry of a model repository, or an ONNX file that belongs to none."""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from export.engine_graph import Graph, GraphError, read_graph
from skipvit import publishing
from skipvit.artifacts import (
    MANIFEST,
    ArtifactError,
    Entry,
    model_names,
    read_entry,
    sha256_of,
    versions_of,
)
from skipvit.manifest import SCHEMA_VERSION, Engine, Manifest, Precision, is_name

# What a GPU runs fastest comes first. Quantised graphs are less exact, and have to be asked for.
_PREFERRED: tuple[Precision, ...] = ("fp16", "bf16", "fp32", "int8", "fp8")
_MAX_RECORD_BYTES = 1 << 20


class Target(ABC):
    """One ONNX file, and the folder that its engine goes into.

    Attributes:
        manifest: of the entry, None for a file that belongs to none.
    """

    graph: Graph
    folder: Path
    precision: Precision
    entry: Entry | None = None

    @abstractmethod
    def file_name(self, gpu: str) -> str:
        """Name of the engine's file for a GPU such as ``sm90``."""

    @abstractmethod
    def known(self, file: str) -> Engine | None:
        """The record of an engine of that name that was built before and is whole."""

    @abstractmethod
    def publish(self, plan: Path, engine: Engine) -> Path:
        """Moves ``plan``, which lies on the same disk or in its place, there and records it; returns where it is.

        Raises:
            ArtifactError: the model that it was made from was replaced meanwhile.
        """

    @abstractmethod
    def withdraw(self, file: str) -> None:
        """Takes an engine of that name away, if there is one: what it is made from was found to give wrong results."""

    @property
    def manifest(self) -> Manifest | None:
        return self.entry.manifest if self.entry else None


class EntryTarget(Target):
    """A verified version of a model: the engine goes beside its files, and into its manifest."""

    def __init__(self, entry: Entry, precision: Precision | None) -> None:
        models = entry.manifest.models
        self.entry = entry
        self.precision = next(known for known in _PREFERRED if known in models) if precision is None else precision
        self.graph = read_graph(entry.model_path(self.precision))
        self.folder = entry.folder

    def file_name(self, gpu: str) -> str:
        return f"model.{self.precision}.{gpu}.plan"

    def known(self, file: str) -> Engine | None:
        assert self.entry is not None
        return next((engine for engine in self.entry.manifest.engines if engine.file == file), None)

    def publish(self, plan: Path, engine: Engine) -> Path:
        """The entry is valid at every moment: a file that is replaced leaves the manifest before it changes."""
        place, digest = self.folder / engine.file, sha256_of(plan)
        with _locked(self.folder):
            manifest = self._read_again()
            others = tuple(known for known in manifest.engines if known.file != engine.file)
            files = {name: known for name, known in manifest.files.items() if name != engine.file}
            if plan != place:
                if engine.file in manifest.files:
                    self._write(manifest, others, files)
                plan.replace(place)
            with _gone_if_unrecorded(place, new=plan != place):
                self._write(manifest, (*others, engine), {**files, engine.file: digest})
        return place

    def withdraw(self, file: str) -> None:
        with _locked(self.folder):
            manifest = self._read_again()
            if file in manifest.files:
                engines = tuple(known for known in manifest.engines if known.file != file)
                files = {name: known for name, known in manifest.files.items() if name != file}
                self._write(manifest, engines, files)
                (self.folder / file).unlink()

    def _read_again(self) -> Manifest:
        """The manifest as it is now: another run may have added an engine since."""
        assert self.entry is not None
        of = self.entry.manifest
        manifest = read_entry(self.folder.parent.parent, of.name, of.version, whole_engines_only=True).manifest
        if manifest.files.get(self.graph.path.name) != self.graph.sha256:
            raise ArtifactError(f"{self.graph.path} was replaced while its engine was built; run again")
        return manifest

    def _write(self, manifest: Manifest, engines: tuple[Engine, ...], files: dict[str, str]) -> None:
        changed = manifest.model_copy(update={"schema_version": SCHEMA_VERSION, "engines": engines, "files": files})
        checked = Manifest.model_validate_json(changed.to_json())
        publishing.write_atomically(self.folder / MANIFEST, checked.to_json())


class FileTarget(Target):
    """A plain ONNX file: the engine goes beside it, or to ``out``, and its record into a .json file beside itself."""

    def __init__(self, path: Path, out: Path | None) -> None:
        self.graph = read_graph(path)
        self.precision = self.graph.precision
        self._out = out
        self.folder = (out or path).absolute().parent

    def file_name(self, gpu: str) -> str:
        stem = self.graph.path.stem.removesuffix(f".{self.precision}")
        return self._out.name if self._out else f"{stem}.{self.precision}.{gpu}.plan"

    def known(self, file: str) -> Engine | None:
        plan, record = self.folder / file, _record_of(self.folder / file)
        try:
            if not plan.is_file() or not record.is_file() or record.stat().st_size > _MAX_RECORD_BYTES:
                return None
            data = json.loads(record.read_bytes())
            digest = data.pop("sha256")
            engine = Engine.model_validate_json(json.dumps(data))
            return engine if digest == sha256_of(plan) else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None  # no record of ours: whatever it says, a build is the answer

    def publish(self, plan: Path, engine: Engine) -> Path:
        place = self.folder / engine.file
        text = json.dumps({**engine.model_dump(mode="json"), "sha256": sha256_of(plan)}, indent=2) + "\n"
        with _locked(self.folder):
            _record_of(place).unlink(missing_ok=True)
            plan.replace(place)
            with _gone_if_unrecorded(place, new=plan != place):
                publishing.write_atomically(_record_of(place), text)
        return place

    def withdraw(self, file: str) -> None:
        with _locked(self.folder):
            _record_of(self.folder / file).unlink(missing_ok=True)
            (self.folder / file).unlink(missing_ok=True)


def open_target(source: Path, version: int | None, precision: Precision | None, out: Path | None) -> Target:
    """What the command line names: ``models/NAME``, ``models/NAME/1``, or an ONNX file.

    Raises:
        ArtifactError, GraphError: there is no such thing, or it is damaged; or an option does not suit it.
    """
    if source.is_file():
        if version is not None or precision is not None:
            option = "--version" if precision is None else "--precision"
            raise GraphError(f"{source} is a single file, to which {option} means nothing; leave it out")
        if out is not None:
            _check_out(out, source)
        return FileTarget(source, out)
    if not source.is_dir():
        raise GraphError(f"{source} is not there; give an entry such as models/digits_skipat, or an ONNX file")
    if out is not None:
        raise GraphError(f"{source} is an entry, beside whose files its engines lie; leave --out out")
    folder = source.resolve()
    if version is None and folder.name.isdigit() and int(folder.name) in versions_of(folder.parent):
        version, folder = int(folder.name), folder.parent
    if not versions_of(folder) and is_name(folder.name) and (names := model_names(folder)):
        raise GraphError(
            f"{source} is a folder of models; give one of them: {', '.join(str(source / n) for n in names)}"
        )
    return EntryTarget(read_entry(folder.parent, folder.name, version, whole_engines_only=True), precision)


def _check_out(out: Path, source: Path) -> None:
    for written in (out, _record_of(out)):
        if written.exists() and written.samefile(source):
            raise GraphError(f"--out {out} would overwrite {source}; give another name")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise GraphError(f"--out {out} is no file in a folder that is there; give one such as {source.stem}.plan")


def _record_of(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


@contextlib.contextmanager
def _gone_if_unrecorded(place: Path, new: bool) -> Iterator[None]:
    """Takes a new engine away if its record cannot be written, as a rule because the disk is full."""
    try:
        yield
    except OSError:
        if new:
            place.unlink()
        raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One run at a time writes into a folder. The lock is the folder's own, and leaves no file behind."""
    try:
        import fcntl
    except ImportError:  # Windows, where two runs at once may lose one of two records, and nothing else
        yield
        return
    import os

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
