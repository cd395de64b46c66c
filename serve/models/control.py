"""Brings versions of models into service and takes them out while the server runs.

What takes time (hashes, sessions, warm-up, closing) runs in one thread of its own, one model at a time, so that
requests keep the decode threads; a model that hangs in it keeps no other from its turn. What is served changes on the
event loop, in one step, when the new model is warm. The old one is closed when its last request is answered. A version
that fails anything takes nothing's place.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from serve.engines.engine import EngineLost, EngineUnavailable
from serve.errors import NotReady, Overloaded
from serve.heap import return_large_blocks
from serve.models.background import Background
from serve.models.folder import Fingerprint, Folder, chosen, fingerprint_of, look_into
from serve.models.index import IndexRow, index_of
from serve.models.loading import LoadFailed, load_version
from serve.models.one_at_a_time import OneAtATime
from serve.models.repository import Failure, Repository
from serve.models.revival import Revival
from serve.models.served_model import ServedModel
from serve.models.watch import Watch
from serve.monitoring.metrics import Metrics
from serve.settings import Settings
from serve.together import Together
from skipvit.artifacts import ArtifactError

logger = logging.getLogger(__name__)

MOST_WAITING = 32
"""Loads, unloads, restarts and models to be closed at a time, after which a load is refused."""
REMEMBERED_VERSIONS = 100
"""Versions out of service whose metrics are kept."""
_CLOSE_AGAIN_S = 1.0
_INDEX_WITHIN_S = 5.0


class ModelControl:
    """Loads, unloads, watches and restarts. All methods are for the event loop.

    ``forget`` is called with name and version of what was taken out of service long ago.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        metrics: Metrics,
        forget: Callable[[str, str], object] = lambda _name, _version: None,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._metrics = metrics
        self._forget = forget
        self._closed: list[tuple[str, str]] = []
        self._watch = Watch(settings)
        self.unloaded: set[str] = set()  # which watching does not bring back
        self._work = Background("model-loader", LoadFailed, NotReady)
        self._lister = Background("model-index")  # no thread that others need: a file system may hang
        self._listing = Together[Folder]()
        self._one = OneAtATime(self._work)
        self._revival = Revival(repository, self._work, self._one, self._bring)

    def start(self, *, revive: bool = True) -> None:
        """Begins to look after the folder where the settings say so, and starts engines again that died."""
        if revive:
            self._work.spawn(self._revival.look_for_dead())
        if self._settings.watch_s or self._settings.model_control == "explicit":
            return_large_blocks()  # of sessions that were closed; without it, a reload leaves up to 130 MB behind
        if self._settings.watch_s:
            self._work.spawn(self._keep_watching())

    async def close(self) -> None:
        """Waits for what is being done, and ends."""
        await self._lister.close()
        await self._work.close()

    async def load(self, name: str, override: str | None = None) -> None:
        """Loads the versions of a model that the settings want, those that are served already once more.

        Args:
            override: see ``load_version``.

        Raises:
            LoadFailed: there is no such model, or a version was not taken; what was served still is.
            Overloaded: too many wait for theirs.
            NotReady: another load of it hangs, or several of others do.
        """
        if len(self._work) > MOST_WAITING:
            raise Overloaded(f"{len(self._work)} loads of models and other changes wait for their turn", 1)
        await asyncio.shield(self._work.spawn(self._load(name, override)))  # whoever asked may hang up

    async def unload(self, name: str) -> bool:
        """Takes a model out of service; what it has begun is still answered. Whether it was in service.

        Raises:
            NotReady: a load of it hangs.
        """
        return await asyncio.shield(self._work.spawn(self._unload(name)))

    async def index(self) -> list[IndexRow]:
        """Every version that is served or lies in the repository; without the latter if that cannot be looked into."""
        folder: Folder = {}
        with suppress(OSError, ArtifactError):  # TimeoutError is one of the first
            async with asyncio.timeout(_INDEX_WITHIN_S):
                folder = await self._listing(self._list)
        return index_of(self._repository, folder)

    async def _list(self) -> Folder:
        return await self._lister.in_thread(look_into, self._repository.root)

    async def _load(self, name: str, override: str | None) -> None:
        async with self._one.turn(name, loads=True):
            wanted = chosen(name, await self._versions_there(name), self._settings)
            if not wanted:
                raise LoadFailed("no version of it is in the repository that the settings want")
            reasons: list[str] = []
            for version in wanted:
                try:
                    await self._bring(name, version, override)
                except LoadFailed as error:
                    reasons.append(str(error))
            if len(reasons) < len(wanted):
                self.unloaded.discard(name)
                for text, model in self._repository.versions(name).items():
                    if int(text) not in wanted:
                        self._take_out(model)
            if reasons:
                raise LoadFailed("; ".join(reasons))

    async def _versions_there(self, name: str) -> Iterable[int]:
        try:
            folder = await self._one.in_thread(name, look_into, self._repository.root)
        except (OSError, ArtifactError) as error:
            logger.error("the model repository cannot be looked into: %s", error)
            raise LoadFailed("the model repository cannot be looked into; the server's log has the cause") from None
        self._repository.forget_failures(folder)
        return folder.get(name, {})

    async def _unload(self, name: str) -> bool:
        async with self._one.turn(name):
            served = list(self._repository.versions(name).values())
            for model in served:
                self._take_out(model)
            if served:
                self.unloaded.add(name)
            return bool(served)

    # --- bringing in and taking out; one at a time ---

    async def _bring(self, name: str, version: int, override: str | None = None) -> None:
        """Loads, warms and swaps one version. Raises LoadFailed."""
        if self._work.closing:
            raise LoadFailed("the server is shutting down")
        fingerprint = await self._one.in_thread(name, fingerprint_of, self._repository.root / name / str(version))
        try:
            model = await self._warm_model(name, version, override)
        except (Exception, EngineLost) as error:  # whatever it is, what is served stays, and the server goes on
            failure = Failure(self._reason(name, version, error), fingerprint)
            self._repository.failures[name, version] = failure
            self._metrics.loaded(name, "failed")
            raise LoadFailed(failure.reason) from error
        self._swap_in(model)

    async def _warm_model(self, name: str, version: int, override: str | None) -> ServedModel:
        load = load_version if override is None else partial(load_version, override=override)
        model = await self._one.in_thread(name, load, self._repository.root, name, version, self._settings)
        try:
            await self._one.in_thread(name, model.warm_up)
        except (Exception, EngineLost):
            await self._one.in_thread(name, model.close)
            raise
        return model

    def _swap_in(self, model: ServedModel) -> None:
        key = (model.name, int(model.version))
        self._repository.begin(model)
        replaced = self._repository.put(model)
        self._repository.failures.pop(key, None)
        self._repository.given_up.discard(key)
        self._revival.came_up(key)
        self._metrics.loaded(model.name, "ok")
        logger.info("model %s/%s is served%s", *key, " in place of the old one" if replaced is not None else "")
        if replaced is not None:
            self._retire(replaced)

    def _take_out(self, model: ServedModel) -> None:
        self._repository.take_out(model)
        self._repository.given_up.discard((model.name, int(model.version)))
        logger.info("model %s/%s is no longer served", model.name, model.version)
        self._retire(model)

    def _retire(self, model: ServedModel) -> None:
        model.when_idle(lambda: self._work.spawn(self._close_retired(model)))

    async def _close_retired(self, model: ServedModel) -> None:
        if self._work.closing:
            return  # the repository closes it with the others
        while not await self._work.in_thread(model.close):
            logger.warning("model %s/%s is out of service and still busy", model.name, model.version)
            if await self._work.pause(_CLOSE_AGAIN_S):
                return
        self._repository.forget(model)
        self._remember(model)

    def _remember(self, closed: ServedModel) -> None:
        """Keeps what is known of the versions that were last in service, long enough to be scraped."""
        version = (closed.name, closed.version)
        self._closed = [other for other in self._closed if other != version] + [version]
        while len(self._closed) > REMEMBERED_VERSIONS:
            name, text = self._closed.pop(0)
            if text not in self._repository.versions(name):
                self._metrics.forget(name, text)
                self._forget(name, text)
                self._revival.forget((name, int(text)))

    def _reason(self, name: str, version: int, error: BaseException) -> str:
        """Why a version was not taken; logged in full, and returned as clients may see it."""
        expected = isinstance(error, ArtifactError | EngineUnavailable)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        logger.error("model %s/%s was not taken: %s", name, version, reason, exc_info=None if expected else error)
        return reason.replace(f"{self._repository.root}/", "")

    # --- watching ---

    async def _keep_watching(self) -> None:
        while not await self._work.pause(self._settings.watch_s):
            if self._repository.refusal is not None:
                continue
            try:
                async with self._one.turn():
                    await self._look()
            except (OSError, ArtifactError) as error:
                if self._watch.lost_sight():
                    logger.error("the model repository cannot be looked into, all models stay: %s", error)
            except Exception:  # ours; the next look may be luckier
                logger.exception("looking for new models failed")

    async def _look(self) -> None:
        repository, overtaken = self._repository, self._one.overtaken
        folder = await self._one.look(look_into, repository.root)
        if overtaken != self._one.overtaken:
            return  # much may have changed since it began
        self._watch.look(folder)
        repository.forget_failures(folder)
        tried = {key: failure.fingerprint for key, failure in repository.failures.items()}
        for name, version in self._watch.to_load(self._served(), tried):
            if name not in self.unloaded and not self._one.hangs(name) and not self._one.full:
                with suppress(LoadFailed):  # logged and noted
                    await self._bring(name, version)
            if overtaken != self._one.overtaken:
                return  # much may have changed since the look
        for name, version in self._watch.surplus(self._served()):
            if self._one.hangs(name):
                continue
            if len(repository.served) == 1:
                if self._watch.first_time_kept(name, version):
                    logger.warning("model %s/%d was removed; it is the server's last and stays", name, version)
                continue
            self._take_out(repository.versions(name)[str(version)])

    def _served(self) -> dict[str, dict[int, Fingerprint]]:
        served: dict[str, dict[int, Fingerprint]] = {}
        for model in self._repository.served:
            served.setdefault(model.name, {})[int(model.version)] = model.fingerprint
        return served
