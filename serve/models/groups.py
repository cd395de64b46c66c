"""Which model answers a request: the one it names, or the variant that the ladder of the group that it names is at."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Send

from serve.admission import Places
from serve.errors import BadField, BadTensor, NotFound, Overloaded, nearest, quoted
from serve.models.group import Group, open_groups
from serve.models.ladder import Work
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from skipvit.manifest import Task

_TICK_S = 0.25
_CROWDED = 0.75  # of the places for requests: then the ladder steps down before any is turned away


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model of a request. ``group`` is what it was asked for by, ``free`` whether the ladder chose the variant."""

    model: ServedModel
    group: Group | None = None
    free: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says of it."""
        headers = {"X-Skipvit-Model": f"{self.model.name}/{self.model.version}"}
        if self.group is not None:
            headers["X-Skipvit-Group"] = self.group.name
        return headers

    @property
    def in_place_of_model(self) -> dict[str, Any]:
        """What a group says in the Open Inference Protocol where a model says its name and version."""
        return {} if self.group is None else {"name": self.group.name, "versions": []}

    @property
    def notes(self) -> dict[str, str]:
        """What the access log says of it."""
        notes = {"model": self.model.name, "version": self.model.version}
        return notes if self.group is None else {**notes, "group": self.group.name}


class Answering:
    """A request in the hands of the ladders, until the first byte of its answer, or its end without one."""

    def __init__(self, begun: list[tuple[Group, Work]]) -> None:
        self._begun = begun

    def watch(self, send: Send) -> Send:
        """A ``send`` that ends it; how fast a client reads its answer is no matter of the ladders."""
        if not self._begun:
            return send

        async def watched(message: Message) -> None:
            self.end(answered=True)
            await send(message)

        return watched

    def end(self, *, answered: bool) -> None:
        """Counts the request as done, once."""
        for group, work in self._begun:
            group.ladder.ended(work, answered=answered)
        self._begun = []


class Groups:
    """Looks models and groups up, and tells the ladders what they need to know. On the event loop only."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        metrics: Metrics,
        checked: Mapping[str, Task] | None = None,
    ) -> None:
        """Opens the groups of the settings, which are ``checked`` where another process has: their tasks by name.

        Raises:
            GroupError: one cannot be served.
        """
        self._repository = repository
        self._metrics = metrics
        if checked is None:
            self._groups = open_groups(settings, repository.models)
        else:
            self._groups = {name: Group(name, own, checked[name], settings) for name, own in settings.groups.items()}
        self._defaults = {group.task: group for group in self._groups.values() if group.settings.default}
        self._timer: asyncio.TimerHandle | None = None
        metrics.watch_groups(lambda: [(group.name, group.ladder.step) for group in self._groups.values()])

    def get(self, name: str | None, variant: str | None, task: Task, places: Places) -> Chosen:
        """The model or group called ``name``, or the default of ``task``; ``places`` are those that it will take.

        Raises:
            RequestError: there is no such model, group or variant, or it is not in service.
        """
        group = self._groups.get(name) if name is not None else self._defaults.get(task)
        if group is not None and group.task == task:
            return self._choose(group, variant, places)
        if group is not None:
            name = group.variants[0]  # its task is wrong, which the repository knows how to say
        with self._named_too(name, task):
            model = self._repository.get(name, task)
        self._check_no_variant(variant, model.name)
        return Chosen(model)

    def find(
        self,
        name: str,
        version: str | None,
        variant: str | None,
        places_for: Callable[[Task], Places] | None = None,
    ) -> Chosen:
        """The model or group called ``name`` of any task, in the Open Inference Protocol; as ``get``.

        Raises:
            BadTensor: the variant makes no sense, or the group's variants take tensors of different sizes.
        """
        try:
            return self._find(name, version, variant, places_for)
        except BadField as error:  # a status that the protocol does not have
            raise BadTensor(error.code, error.message, error.hint) from None

    def _find(
        self, name: str, version: str | None, variant: str | None, places_for: Callable[[Task], Places] | None
    ) -> Chosen:
        group = self._groups.get(name)
        if group is None:
            with self._named_too(name):
                model = self._repository.find(name, version)
            self._check_no_variant(variant, model.name)
            return Chosen(model)
        if version is not None:
            raise NotFound(
                "unknown_version",
                f"Request for unknown model: {quoted(name)} version {quoted(version)} is not found",
                f"{quoted(name)} is a group; its variants have versions: {', '.join(group.variants)}",
            )
        group.check_same_input(self._repository.models)
        return self._choose(group, variant, places_for(group.task) if places_for else None)

    def has(self, name: str) -> bool:
        """Whether a group has this name."""
        return name in self._groups

    @property
    def all(self) -> list[Group]:
        """Every group, in the order of the configuration."""
        return list(self._groups.values())

    @contextmanager
    def answering(self, chosen: Chosen, pictures: int) -> Iterator[Answering]:
        """Held while a request is answered: the ladders count it in hand, and how long its answer takes."""
        answering = Answering(self._begin(chosen, pictures))
        try:
            yield answering
        finally:
            answering.end(answered=False)

    @contextmanager
    def told_of_refusals(self, asked: Task | Chosen) -> Iterator[None]:
        """Tells ladders of a request that is turned away in the block: of its model's groups, or of all of its task.

        The latter is for when its model is not known yet. A model that is no variant may be full for itself alone.
        """
        try:
            yield
        except Overloaded:
            self.press(asked)
            raise

    def press(self, asked: Task | Chosen) -> None:
        """Tells ladders of a request that was turned away; which ones is as with ``told_of_refusals``."""
        for group in self._groups.values():
            if asked.model.name in group.variants if isinstance(asked, Chosen) else asked == group.task:
                group.ladder.press("a request was turned away")

    def close(self) -> None:
        """Stops looking at the ladders."""
        if self._timer is not None:
            self._timer.cancel()

    def _choose(self, group: Group, variant: str | None, places: Places | None) -> Chosen:
        models = self._repository.models
        if variant is not None:
            return Chosen(group.pinned(variant, models)[1], group)
        if places is not None and places.in_flight > _CROWDED * places.limit:
            group.ladder.press(f"{places.in_flight} of {places.limit} places are taken")
        self._step(group)
        return Chosen(group.current(models)[1], group, free=True)

    def _begin(self, chosen: Chosen, pictures: int) -> list[tuple[Group, Work]]:
        """Counts the request in each group that its model is a variant of: all share the same engines."""
        name = chosen.model.name
        if chosen.group is not None:
            self._metrics.group_request(chosen.group.name, name)
        begun = []
        for group in self._groups.values():
            if name in group.variants:
                free = chosen.free and group is chosen.group
                begun.append((group, group.ladder.began(group.variants.index(name), pictures, free=free)))
        return begun

    def _step(self, group: Group) -> None:
        change = group.step(self._repository.models)
        if change is not None:
            self._metrics.group_step(group.name, "down" if change.after > change.before else "up")
        if group.ladder.step and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        """Without requests nobody looks at the ladders, and they are to be back at the top all the same."""
        self._timer = None
        for group in self._groups.values():
            if group.ladder.step:
                self._step(group)

    @contextmanager
    def _named_too(self, name: str | None, task: Task | None = None) -> Iterator[None]:
        """Adds groups to the names that the repository says are nearest to one that it does not know."""
        try:
            yield
        except NotFound as error:
            if name is not None and error.code == "unknown_model":
                named: list[Any] = [*self._repository.models.values(), *self._groups.values()]
                fitting = [one for one in named if task in (None, one.task)]
                error.hint = nearest(name, [one.name for one in fitting or named])
            raise

    def _check_no_variant(self, variant: str | None, name: str) -> None:
        if variant is not None:
            known = f"groups: {', '.join(self._groups)}" if self._groups else "this server has no groups"
            raise BadField(
                "bad_field",
                f"variant is {quoted(variant)}, and {name!r} is a model and no group",
                f"name the model that you want as model, and leave variant out; {known}",
            )
