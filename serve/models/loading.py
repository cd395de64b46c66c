"""Versions of models, ours or not, from a repository's folder to what is served."""

import logging
from collections.abc import Sequence
from pathlib import Path

from serve.engines.engine import EngineUnavailable
from serve.errors import nearest
from serve.foreign.model import open_foreign
from serve.models.folder import chosen, fingerprint_of, is_foreign
from serve.models.served_model import ServedModel, open_model
from serve.settings import Settings
from serve.tasks import missing_package
from skipvit.artifacts import ArtifactCorrupt, ArtifactMissing, model_names, read_entry, versions_of

logger = logging.getLogger(__name__)


class LoadFailed(Exception):
    """A version was not taken into service; the message says why."""


def load_wanted(root: Path, settings: Settings) -> list[ServedModel]:
    """Verifies and loads the versions of every model under ``root`` that the settings want, or none.

    Raises:
        ArtifactError: nothing is there, or something is wrong with it; the message names the file.
        EngineUnavailable: the engine that the settings ask for cannot run here.
    """
    names = model_names(root)
    if not names and versions_of(root):
        raise ArtifactMissing(f"{root} is one model, not a folder of models; give its parent, {root.resolve().parent}")
    if not names:
        raise ArtifactMissing(
            f"{root} holds no model such as {root / 'NAME' / '1' / 'model.onnx'}; "
            "make one with `make demo-models` or `skipvit-to-onnx`"
        )
    _check_tables(names, settings)
    models: list[ServedModel] = []
    try:
        for name in names:
            for version in _wanted(root, name, settings):
                models.append(load_version(root, name, version, settings))
    except BaseException:
        for model in models:  # they may hold a GPU's memory
            model.close()
        raise
    return models


def _check_tables(names: Sequence[str], settings: Settings) -> None:
    """A table of the configuration for a model that is not there is a mistake in its name."""
    for name in settings.models:
        if name not in names:
            said = f"there is a table for model {name!r} and no such model"
            if settings.watch_s or settings.model_control != "none":
                logger.warning("%s yet", said)
            else:
                raise ArtifactMissing(f"{said}; {nearest(name, names)}")


def _wanted(root: Path, name: str, settings: Settings) -> list[int]:
    present = versions_of(root / name)
    wanted = chosen(name, present, settings)
    if not wanted:
        raise ArtifactMissing(
            f"model {name!r} has versions {present}, and the settings want {settings.of(name).versions}; "
            "copy one of those, or change versions of that model in the settings"
        )
    return wanted


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
