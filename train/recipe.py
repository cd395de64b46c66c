"""A recipe: everything that decides the outcome of a training run, as data.

    task      [model] [data] [augment] [optim] [schedule] [run]      and where wanted  [guide] [distill]

A recipe is a TOML file, or the recipe.json that a run leaves behind. Its key ``task``, "classification" where it is not
there, says which sections and keys it may have: here are those of all tasks, in train/<task>_recipe.py the others.
Unknown keys are errors. Nothing here imports torch, so that a typo is reported at once.
"""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PACKAGED = Path(__file__).resolve().parent / "recipes"
# Tasks, and the modules whose class Recipe is a recipe of theirs.
KINDS = {
    "classification": "train.classification_recipe",
    "denoising": "train.denoising_recipe",
    "video-denoising": "train.video_denoising_recipe",
}

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# TOML has arrays only, so the one loose rule of the strict models is that an array may become a tuple.
Pair = Annotated[tuple[float, float], Field(strict=False)]


class RecipeError(ValueError):
    """A recipe cannot be used; the message names the file and the key, and says what to write instead."""


class Section(BaseModel):
    """A table of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Model(Section):
    """A timm name or one of ours; ``args`` go to its constructor. Classes and picture size come from the data.

    ``weights`` are those to start from: ``none``, a checkpoint folder, a file of weights (.safetensors, or .pth without
    pickled code), or a timm model whose weights are fetched. They must be the model's own, all of them, but for the
    head of other classes. A plain ViT's, but from a file, also start the models of our family: their static matrices
    inherit its mean attention, and [guide] finds the queries and keys that it needs.
    """

    name: str
    args: dict[str, Any] = Field(default_factory=dict)
    weights: str = "none"


class Data(Section):
    """Where pictures come from."""

    uri: str
    workers: int = Field(default=0, ge=0, description="decoding processes per training process")


class Optim(Section):
    """AdamW."""

    lr: float = Field(gt=0.0)
    weight_decay: float = Field(default=0.05, ge=0.0)
    betas: Pair = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    clip_norm: float = Field(default=0.0, ge=0.0, description="0 clips nothing")
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class Schedule(Section):
    """Linear warm-up, then cosine; both move at every step."""

    epochs: int = Field(ge=1)
    warmup_epochs: float = Field(default=0.0, ge=0.0)
    warmup_lr: float = Field(default=0.0, ge=0.0)
    min_lr: float = Field(default=0.0, ge=0.0)

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be fewer than epochs {self.epochs}")
        return self


class Guide(Section):
    """DGSSA's dynamic-guided training: static blocks use  Â = (1 - λ) A + λ S  until λ is 1, S alone from then on."""

    ramp: Fraction = Field(default=0.5, description="share of the steps in which λ goes from 0 to 1; 0 guides nothing")
    schedule: Literal["linear", "cosine"] = "linear"
    weight: float = Field(default=1.0, ge=0.0, description="β of the loss β KL(A || S), while λ is below 1")


class Run(Section):
    """How the run is carried out. ``batch`` is the whole batch of a step, over all processes and accumulation."""

    seed: int = Field(default=0, ge=0)
    batch: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    steps: int = Field(default=0, ge=0, description="stop after so many steps; 0 runs all epochs")
    strategy: Literal["auto", "single", "ddp", "fsdp"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: Literal["auto", "bf16", "off"] = "auto"
    threads: int = Field(default=0, ge=0, description="CPU threads per process; 0 shares the machine's out")
    save_every: int = Field(default=0, ge=0, description="steps between resume states; 0 saves after each epoch")
    evaluate_every: int = Field(default=1, ge=1, description="epochs between evaluations")
    log_every: int = Field(default=10, ge=1, description="steps between lines of metrics.jsonl")
    tensorboard: bool = False


class Recipe(Section):
    """What the recipes of all tasks have."""

    model: Model
    data: Data
    optim: Optim
    schedule: Schedule
    guide: Guide | None = None
    run: Run
    task: str

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.run.batch % self.run.accumulate:
            raise ValueError(f"run.batch {self.run.batch} cannot be split into run.accumulate {self.run.accumulate}")
        return self

    def differences(self, other: "Recipe") -> list[str]:
        """Lines ``key: mine, the other's`` for every key whose values differ."""
        mine, others = (dict(_flatten(recipe.model_dump(mode="json"))) for recipe in (self, other))
        keys = sorted(mine.keys() | others.keys())
        return [f"{k}: {mine.get(k)!r}, was {others.get(k)!r}" for k in keys if mine.get(k) != others.get(k)]


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe from a file, or a packaged one by its bare name.

    Args:
        overrides: ``section.key=value`` strings, the value as TOML would have it; bare words are strings.

    Raises:
        RecipeError: the file or a value in it cannot be used.
    """
    path = find_recipe(name)
    tables = _read_tables(path)
    kind = _kind(tables, path)
    for override in overrides:
        _apply_override(tables, override)
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        source = f"{path}" + (f" with --set {' '.join(overrides)}" if overrides else "")
        raise RecipeError("\n".join(f"{source}: {_explain(e, kind)}" for e in error.errors())) from None


def find_recipe(name: str | Path) -> Path:
    """Path of a recipe file; a name without a folder may also be a packaged recipe, with or without ``.toml``."""
    path = Path(name)
    if path.is_file():
        return path
    packaged = {p.stem: p for p in sorted(PACKAGED.glob("*.toml"))}
    if path.parent == Path() and path.name.removesuffix(".toml") in packaged:
        return packaged[path.name.removesuffix(".toml")]
    near = difflib.get_close_matches(path.stem, packaged, n=2, cutoff=0.5) or list(packaged)
    raise RecipeError(f"no recipe {name}: it is neither a file nor a packaged recipe; packaged are: {', '.join(near)}")


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:  # both decoders' errors are ValueErrors
        raise RecipeError(f"{path} cannot be read as a recipe: {error}") from None
    if not isinstance(tables, dict):
        kind = type(tables).__name__
        raise RecipeError(f"{path} holds a {kind}, a recipe is a table with the keys model, data, optim, schedule, run")
    return tables


def _kind(tables: dict[str, Any], path: Path) -> type[Recipe]:
    """The kind of recipe that the key ``task`` asks for."""
    task = tables.get("task", "classification")
    if not isinstance(task, str) or task not in KINDS:
        raise RecipeError(f"{path}: task = {task!r}; the tasks are {', '.join(KINDS)}")
    kind = import_module(KINDS[task]).Recipe
    assert issubclass(kind, Recipe)
    return kind


def _apply_override(tables: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not parents:
        raise RecipeError(f"--set {override}: write it as section.key=value, such as --set optim.lr=1e-3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = tables
    for parent in parents:
        if table.get(parent) is None:  # not there, or a resolved recipe's null
            table[parent] = {}
        table = table[parent]
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override}: {parent} is a value, not a section")
    table[last] = value


def _explain(error: Any, kind: type[Recipe]) -> str:
    """One of pydantic's errors in terms of the recipe: the key, what came, what is needed."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        section, _, last = key.rpartition(".")
        return f"unknown key {key} = {error['input']!r}; {_nearest(section, last, kind)}"
    if error["type"] == "missing":
        return f"{key} is missing; the recipe must give it"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _nearest(section: str, key: str, kind: type[Recipe]) -> str:
    schema = _schema(kind)
    inside = {name: f"{section}.{name}" for name in schema.get(section, ())} or {name: name for name in schema}
    anywhere = {name: f"{table}.{name}" for table, names in schema.items() for name in names} | inside
    # a near miss elsewhere goes before a far one here: optim.epoch is schedule.epochs, not optim.eps
    for names, cutoff in ((inside, 0.75), (anywhere, 0.75), (inside, 0.5)):
        if near := difflib.get_close_matches(key, names, n=1, cutoff=cutoff):
            return f"did you mean {names[near[0]]}?"
    return f"the keys here are {', '.join(schema.get(section, schema))}"


def _schema(kind: type[Recipe]) -> dict[str, tuple[str, ...]]:
    """Keys by section; ``task``, which is none, has no keys."""
    found = {}
    for name, field in kind.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))  # Guide | None has both as its arguments
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
        found[name] = tuple(sections[0].model_fields) if sections else ()
    return found


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
