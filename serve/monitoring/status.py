"""What the server says of itself: probes, and the models with their figures."""

from typing import Any, Literal

from fastapi import FastAPI, Response
from pydantic import BaseModel

from serve.engines.engine import EngineInfo
from serve.models.group import Group
from serve.models.groups import Groups
from serve.models.repository import Repository, State
from serve.models.served_model import ServedModel
from serve.tasks import SAMPLE
from skipvit.manifest import Evaluation, Parity, Task, Tiling


class Health(BaseModel):
    """Where the server stands."""

    status: State


class InputSize(BaseModel):
    """What a picture is resized to, and how."""

    height: int
    width: int
    resize: Literal["crop", "squash"]


class ModelInfo(BaseModel):
    """One served model, as its manifest describes it, and whether it answers at the moment.

    ``versions`` has all that are served, the highest first; what is said here is of ``version``, the one that answers
    who names none.

    A classifier has classes, labels and an input size; a denoiser has a tiling, and URLs of clean pictures to try.
    """

    name: str
    version: str
    versions: list[str]
    ready: bool
    task: Task
    architecture: str
    classes: int
    labels: list[str]
    input: InputSize | None
    tiling: Tiling | None
    samples: list[str]
    params: int
    macs: int
    max_batch: int
    engine: EngineInfo
    evaluation: Evaluation | None
    parity: list[Parity]


class FailedVersion(BaseModel):
    """A version that was found while the server runs and not taken, and why."""

    name: str
    version: str
    reason: str


class GroupInfo(BaseModel):
    """Variants under one name, the most exact first, and which of them the server answers with now.

    ``step`` is its place among the variants. ``default`` says whether it answers requests that name no model.
    """

    name: str
    task: Task
    variants: list[str]
    p99_ms: float
    default: bool
    step: int
    variant: str


class ModelList(BaseModel):
    """All served models; the first of its task is the default, unless a group is. Groups are named like models."""

    models: list[ModelInfo]
    failed: list[FailedVersion]
    groups: list[GroupInfo]


_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Take it out of rotation"}}
_DEAD: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "An engine died and cannot be started again: restart the process"}
}


def add_status_routes(app: FastAPI, repository: Repository, groups: Groups) -> None:
    """Adds the routes for probes and people. HEAD answers where GET does."""

    async def livez(response: Response) -> Health:
        """Whether the process is worth keeping: 200 unless a model failed to warm up or an engine to start again."""
        response.status_code = 503 if repository.state == "failed" else 200
        return Health(status=repository.state)

    async def readyz(response: Response) -> Health:
        """Whether to send requests here: 503 while warming up or draining, and while no model answers."""
        response.status_code = 200 if repository.state == "ready" else 503
        return Health(status=repository.state)

    async def models() -> ModelList:
        """Every model with its size, cost and evaluation, what runs it, and how close its files come to PyTorch."""
        failed = [
            FailedVersion(name=name, version=str(version), reason=failure.reason)
            for (name, version), failure in sorted(repository.failures.items())
        ]
        ours = [model for model in repository.models.values() if model.task != "tensors"]
        return ModelList(
            models=[_info(model, repository) for model in ours],
            failed=failed,
            groups=[_group_info(group) for group in groups.all],
        )

    app.get("/livez", summary="Is it alive?", responses=_DEAD, tags=["probes"])(livez)
    app.get("/readyz", summary="Is it ready for requests?", responses=_NOT_READY, tags=["probes"])(readyz)
    app.get("/v1/models", summary="What is served?", tags=["models"])(models)
    for path, endpoint in (("/livez", livez), ("/readyz", readyz), ("/v1/models", models)):
        app.head(path, include_in_schema=False)(endpoint)


def _info(model: ServedModel, repository: Repository) -> ModelInfo:
    manifest = model.entry.manifest
    size = manifest.preprocessing
    return ModelInfo(
        name=model.name,
        version=model.version,
        versions=list(repository.versions(model.name)),
        ready=repository.is_ready(model),
        task=manifest.task,
        architecture=manifest.architecture,
        classes=model.classes,
        labels=list(model.labels),
        input=InputSize(height=size.height, width=size.width, resize=size.resize) if size else None,
        tiling=manifest.tiling,
        samples=[SAMPLE.format(name=model.name, file=file) for file in manifest.samples],
        params=manifest.params,
        macs=manifest.macs,
        max_batch=model.batcher.max_batch,
        engine=model.engine_info,
        evaluation=manifest.evaluation,
        parity=[*manifest.parity, *_engine_parity(model)],
    )


def _group_info(group: Group) -> GroupInfo:
    step = group.ladder.step
    return GroupInfo(
        name=group.name,
        task=group.task,
        variants=list(group.variants),
        p99_ms=group.settings.p99_ms,
        default=group.settings.default,
        step=step,
        variant=group.variants[step],
    )


def _engine_parity(model: ServedModel) -> list[Parity]:
    """How close the TensorRT engine that runs a model is to the file it was made from, or nothing."""
    running = model.engine_info.file
    return [engine.parity for engine in model.entry.manifest.engines if engine.file == running and engine.parity]
