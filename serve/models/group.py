"""One group: variants of one task by name, the ladder that chooses among them, and what fits into a group at all."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from serve.errors import BadField, BadTensor, NotReady, nearest, quoted
from serve.models.ladder import Change, Ladder
from serve.models.ladder_load import Cost
from serve.models.served_model import ServedModel
from serve.models.settings import GroupSettings
from serve.settings import Settings
from serve.tasks import ROUTES
from skipvit.manifest import Task, is_name

logger = logging.getLogger(__name__)

EXACT = "exact"  # pins the most exact variant, whatever it is called
_LADDER_TASKS = ("classification", "denoising")


class GroupError(ValueError):
    """A group of the configuration cannot be served; the message says why, and what to do."""


class Group:
    """A group that is served. Models are asked for by name each time: they may be replaced or taken away meanwhile."""

    def __init__(self, name: str, own: GroupSettings, task: Task, settings: Settings) -> None:
        self.name = name
        self.settings = own
        self.task = task
        self.variants: Sequence[str] = own.variants
        self.ladder = Ladder(len(own.variants), own.p99_ms / 1000, own.hold_s, settings.max_in_flight)
        self._threads = settings.decoders
        self._seen: list[ServedModel | None] = [None] * len(own.variants)
        self._misfit: dict[str, ServedModel] = {}  # what was found not to fit, so that it is said once

    def step(self, models: Mapping[str, ServedModel]) -> Change | None:
        """Has the ladder look at its load; the change is logged, if there is one."""
        self._learn_costs(models)
        change = self.ladder.update()
        if change is not None:
            way = "down" if change.after > change.before else "up"
            logger.info(
                "group %s steps %s from %s to %s: %s",
                self.name, way, self.variants[change.before], self.variants[change.after], change.why,
            )  # fmt: skip
        return change

    def current(self, models: Mapping[str, ServedModel]) -> tuple[int, ServedModel]:
        """The rung that answers now: the ladder's, or the nearest one that is served, faster ones first.

        Raises:
            NotReady: none is served now.
        """
        step = self.ladder.step
        for rung in (*range(step, len(self.variants)), *range(step - 1, -1, -1)):
            if (model := self.at(rung, models)) is not None:
                return rung, model
        raise NotReady(f"no variant of group {self.name!r} is in service")

    def pinned(self, variant: str, models: Mapping[str, ServedModel]) -> tuple[int, ServedModel]:
        """The rung of a variant by its name, or of "exact".

        Raises:
            BadField: the group has no such variant.
            NotReady: it is not served now.
        """
        if variant in self.variants:
            rung = self.variants.index(variant)
        elif variant == EXACT:
            rung = 0
        else:
            raise BadField(
                "unknown_variant",
                f"group {self.name!r} has no variant {quoted(variant)}",
                nearest(variant, [EXACT, *self.variants]),
            )
        model = self.at(rung, models)
        if model is None:
            raise NotReady(f"variant {self.variants[rung]!r} of group {self.name!r} is not in service")
        return rung, model

    def first(self, models: Mapping[str, ServedModel]) -> ServedModel | None:
        """The most exact variant that is served."""
        return next(iter(self._served(models)), None)

    def _served(self, models: Mapping[str, ServedModel]) -> list[ServedModel]:
        """The variants that are served, but for those that became models of another task with a new version."""
        found = [models[name] for name in self.variants if name in models]
        return [model for model in found if model.task == self.task]

    def check_same_input(self, models: Mapping[str, ServedModel]) -> None:
        """Raises BadTensor if some variants take other tensors than others: then none can be asked for by the group."""
        shapes = {model.row for model in self._served(models)}
        if len(shapes) > 1:
            raise BadTensor(
                "variants_differ",
                f"the variants of group {self.name!r} take tensors of different shapes",
                f"name one of them as the model: {', '.join(self.variants)}; {ROUTES[self.task]} takes files for all",
            )

    def at(self, rung: int, models: Mapping[str, ServedModel]) -> ServedModel | None:
        """The variant on a rung, if it is there, alive, and still like the most exact one."""
        model = models.get(self.variants[rung])
        if model is None or not model.batcher.alive:
            return None
        first = self.first(models)
        if model is not first and (first is None or not self._fits(first, model)):
            return None
        return model

    def _fits(self, first: ServedModel, model: ServedModel) -> bool:
        """Whether both still answer alike: versions come one by one, and labels may change with them."""
        difference = difference_of(first, model)
        if difference and self._misfit.get(model.name) is not model:
            self._misfit[model.name] = model
            logger.warning("group %s passes over %s: %s", self.name, model.name, difference)
        return not difference

    def _learn_costs(self, models: Mapping[str, ServedModel]) -> None:
        for rung, name in enumerate(self.variants):
            model = models.get(name)
            if model is not None and model is not self._seen[rung] and model.alone_s:
                self._seen[rung] = model
                threads = model.capacity.threads * model.capacity.instances or self._threads
                parallel = threads * model.batcher.max_batch
                self.ladder.set_cost(rung, Cost(model.alone_s, model.row_s / threads, parallel))
                if model.alone_s > self.ladder.objective_s:
                    logger.warning(
                        "group %s: %s takes %.0f ms for one picture alone, the objective is %g ms",
                        self.name, name, model.alone_s * 1000, self.settings.p99_ms,
                    )  # fmt: skip


def open_groups(settings: Settings, models: Mapping[str, ServedModel]) -> dict[str, Group]:
    """The groups of the settings, by name.

    Raises:
        GroupError: one names what is not served, or variants that do not answer alike.
    """
    groups = {name: _open(name, own, models, settings) for name, own in settings.groups.items()}
    defaults: dict[Task, str] = {}
    for group in groups.values():
        if group.settings.default and (other := defaults.setdefault(group.task, group.name)) != group.name:
            raise GroupError(
                f"groups {other!r} and {group.name!r} are both the default for {group.task}; set default in one"
            )
    return groups


def _open(name: str, own: GroupSettings, models: Mapping[str, ServedModel], settings: Settings) -> Group:
    if not is_name(name):
        raise GroupError(f"group {name!r} needs a name of letters, digits, '.', '-' and '_', as models have")
    if name in models:
        raise GroupError(f"group {name!r} has the name of a model; give it another")
    for variant in own.variants:
        if variant not in models:
            hint = nearest(variant, _listed(models.values()))
            raise GroupError(f"group {name!r} has the variant {variant!r}, which is not served; {hint}")
    first, *others = (models[variant] for variant in own.variants)
    if first.task not in _LADDER_TASKS:
        raise GroupError(f"group {name!r} is of models for {first.task}; groups are for {' or '.join(_LADDER_TASKS)}")
    for other in others:
        if difference := difference_of(first, other):
            raise GroupError(f"group {name!r}: {difference}; variants of a group must answer alike")
    return Group(name, own, first.entry.manifest.task, settings)


def difference_of(first: ServedModel, other: ServedModel) -> str:
    """In what two models are no variants of each other, or ""."""
    if first.task != other.task:
        return f"{first.name} is for {first.task}, {other.name} for {other.task}"
    if first.classes != other.classes:
        return f"{first.name} has {first.classes} classes, {other.name} has {other.classes}"
    if first.labels is not other.labels and first.labels != other.labels:
        return f"{first.name} and {other.name} have different labels"
    if first.task == "denoising" and first.tiling != other.tiling:
        return f"{first.name} and {other.name} differ in their tiles"
    return ""


def _listed(models: Iterable[Any]) -> list[str]:
    return [model.name for model in models if model.task in _LADDER_TASKS]
