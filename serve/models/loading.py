"""Versions of models, ours or not, from a repository's folder to what is served."""

from pathlib import Path

from serve.engines.engine import EngineUnavailable
from serve.foreign.model import open_foreign
from serve.models.folder import fingerprint_of, is_foreign
from serve.models.served_model import ServedModel, open_model
from serve.settings import Settings
from serve.tasks import missing_package
from skipvit.artifacts import ArtifactCorrupt, read_entry


class LoadFailed(Exception):
    """A version was not taken into service; the message says why."""


def load_version(root: Path, name: str, version: int, settings: Settings, override: str | None = None) -> ServedModel:
    """Verifies and loads one version of a model; it is neither started nor warm.

    Args:
        override: a configuration as JSON for a model that is not ours, in place of its own.

    Raises:
        ArtifactError, EngineUnavailable: as ``read_entry``, ``open_model`` and ``open_foreign``, or its files changed
            meanwhile.
    """
    folder = root / name / str(version)
    before = fingerprint_of(folder)
    model = _opened(root, name, version, settings, override)
    if missing := missing_package([(model.name, model.task)]):
        model.close()
        raise EngineUnavailable(missing)
    if model.fingerprint != before:
        model.close()
        raise ArtifactCorrupt(f"{folder} was changed while it was being read; try again when it is complete")
    return model


def _opened(root: Path, name: str, version: int, settings: Settings, override: str | None) -> ServedModel:
    if is_foreign(root / name / str(version)):
        return open_foreign(root, name, version, settings, override)
    if override is not None:
        raise ArtifactCorrupt(f"{name!r} has a manifest, which no configuration overrides; load it without one")
    return open_model(read_entry(root, name, version), settings)
