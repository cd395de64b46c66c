"""The index of a model repository: every version that is served or lies there, with why it is not ready."""

from typing import NamedTuple

from serve.models.folder import Folder
from serve.models.repository import Repository
from serve.models.served_model import ServedModel


class IndexRow(NamedTuple):
    """One version, as Triton's index has it."""

    name: str
    version: str
    state: str
    reason: str


def index_of(repository: Repository, folder: Folder) -> list[IndexRow]:
    """The versions that are served, then those that only lie in ``folder``."""
    return [*(_served_row(repository, model) for model in repository.served), *_others(repository, folder)]


def _served_row(repository: Repository, model: ServedModel) -> IndexRow:
    if repository.is_ready(model):
        # New files of a served version that were not taken are worth a word.
        failure = repository.failures.get((model.name, int(model.version)))
        kept = f"its new files were not taken: {failure.reason}" if failure else ""
        return IndexRow(model.name, model.version, "READY", kept)
    alive = model.batcher.alive
    reason = f"the server is {repository.state}" if alive else "its engine died, and is being started again"
    return IndexRow(model.name, model.version, "UNAVAILABLE", reason)


def _others(repository: Repository, folder: Folder) -> list[IndexRow]:
    failures = repository.failures
    served = {(model.name, int(model.version)) for model in repository.served}
    there = {(name, version) for name, versions in folder.items() for version in versions}
    reasons = dict.fromkeys(there, "not loaded") | {key: failure.reason for key, failure in failures.items()}
    return [
        IndexRow(name, str(version), "UNAVAILABLE", reasons[name, version])
        for name, version in sorted(set(reasons) - served)
    ]
