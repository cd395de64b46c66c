"""The parts of a server, wired together, and how they are started and ended."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Protocol, cast

from serve.admission import Admission
from serve.classify import Classify
from serve.decoding import ImageLimits
from serve.denoise import Denoise
from serve.models.control import ModelControl
from serve.models.groups import Groups
from serve.models.repository import Repository
from serve.models.served_model import ServedModel
from serve.monitoring.live import Part, Watched
from serve.monitoring.metrics import Metrics, ModelState
from serve.monitoring.tracing import note_stage, open_tracing
from serve.oip.infer import Infer
from serve.oip.repository import Control
from serve.pipeline import DecodeStage
from serve.settings import Settings
from serve.video.denoise import DenoiseVideo
from serve.web.loop_rest import Rest
from skipvit.manifest import Task

logger = logging.getLogger(__name__)

_WARM_UP_ENDS_WITHIN_S = 5.0


class Others(Protocol):
    """The other processes of a server of several, of which this one is a front; see ``serve.fronts``.

    ``groups`` are the tasks of the groups, which were checked there.
    """

    @property
    def models(self) -> Control:
        """Who loads and unloads."""
        ...

    @property
    def groups(self) -> Mapping[str, Task]: ...

    async def metrics(self, own: Callable[[], bytes]) -> bytes:
        """Those of the whole server, and of this process what ``own`` renders."""
        ...

    async def parts(self, own: Callable[[], Part]) -> Sequence[Part]:
        """What all processes say for the status, and this one by ``own``."""
        ...


class Wiring:
    """What answers requests for the models of ``repository``, and what counts them.

    With ``others``, models are loaded and unloaded there.
    """

    def __init__(self, settings: Settings, repository: Repository, others: Others | None = None) -> None:
        self.settings = settings
        self.repository = repository
        self.others = others
        self.metrics = metrics = Metrics()
        self.tracing = open_tracing(settings.tracing)
        if self.tracing is not None:
            metrics.on_stage = note_stage
        self.admission = admission = Admission.from_settings(settings)
        self.rest = Rest(lambda: metrics.in_flight > admission.in_flight)
        limits = ImageLimits(settings.max_pixels, settings.max_frames)
        self.groups = groups = Groups(settings, repository, metrics, others.groups if others else None)
        self.decoding = decoding = DecodeStage(settings.decoders, limits, lambda: repository.batchers)
        self.classify = Classify(settings, repository, groups, admission, decoding, metrics)
        self.denoise = Denoise(settings, repository, groups, admission, metrics)
        self.denoise_video = DenoiseVideo(settings, repository, groups, admission, metrics)
        self.infer = Infer(settings, repository, groups, admission, decoding, self.denoise, metrics)
        self._own_control = (
            None if others else ModelControl(settings, repository, metrics, self.infer.statistics.forget)
        )
        self.control: Control = self._own_control or cast(Others, others).models
        self.watched = Watched(metrics, lambda: decoding.waiting + repository.waiting)
        metrics.watch_models(lambda: [_model_state(repository, model) for model in repository.served])
        metrics.watch_decoding(lambda: decoding.waiting)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts the threads and warms the models in the background; at the end all are closed, the repository too."""
        repository, metrics = self.repository, self.metrics
        deliver = self.rest.deliver_to(asyncio.get_running_loop())
        self.decoding.start(deliver)
        repository.start(deliver, lambda model, report: metrics.batch(model.name, report))
        warmer = ThreadPoolExecutor(1, thread_name_prefix="warm-up")
        warming = asyncio.get_running_loop().run_in_executor(warmer, repository.warm_up)
        warmer.shutdown(wait=False)
        if self._own_control is not None:
            self._own_control.start()
        try:
            yield
        finally:
            repository.drain()
            await asyncio.wait({warming}, timeout=_WARM_UP_ENDS_WITHIN_S)
            await self._close(warm=warming.done())

    async def _close(self, *, warm: bool) -> None:
        if self._own_control is not None:
            await self._own_control.close()
        self.groups.close()
        await self.denoise.close()
        self.denoise_video.close()
        await asyncio.to_thread(_close, self.decoding, self.repository, warm=warm)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)


def _close(decoding: DecodeStage, repository: Repository, *, warm: bool) -> None:
    decoding.close()
    if warm:
        repository.close()
    else:  # an engine must not be freed while it runs
        logger.error("the warm-up of a model hangs; its engine stays open until the process ends")


def _model_state(repository: Repository, model: ServedModel) -> ModelState:
    info = model.engine_info
    waiting = model.batcher.waiting
    return ModelState(model.name, model.version, repository.is_ready(model), waiting, info.kind, info.device)
