"""Pictures of an inference request through a denoiser: cut into tiles, which share batches with those of others."""

import asyncio
from collections.abc import Sequence

import numpy as np
from PIL import Image

from serve.admission import taken
from serve.denoise import Denoise
from serve.errors import TooLarge
from serve.models.served_model import ServedModel
from serve.monitoring.metrics import Metrics
from serve.oip.stats import Statistics
from serve.photograph import Photograph
from serve.restoring import Restoration, plan_for
from serve.settings import Settings
from serve.tiles_in_flight import Stopped
from serve.urgency import Priority
from serve.web.asgi import ClientGone
from serve.web.hang_up import Client
from skipvit.transforms import Pixels


class PictureRunner:
    """Restores the pictures of one batch side by side, in the places and threads of the route for single ones."""

    def __init__(self, settings: Settings, denoise: Denoise, metrics: Metrics, statistics: Statistics) -> None:
        self._max_pixels = settings.max_pixels
        self._denoise = denoise
        self._metrics = metrics
        self._statistics = statistics

    async def run(self, model: ServedModel, batch: Pixels, client: Client, priority: Priority) -> Pixels:
        """Returns the restored pictures (n, h, w, 3) uint8 of a batch as large.

        Raises:
            RequestError: the model failed on a tile, or the pictures are too large.
            Overloaded: there is no room for so many.
            ClientGone: nobody waits any more.
        """
        count, height, width, _ = batch.shape
        if count * height * width > self._max_pixels:
            raise TooLarge(
                "image_too_large",
                f"{count} pictures of {width} x {height} have {count * height * width} pixels, the limit is "
                f"{self._max_pixels}",
                "send fewer or smaller ones per request",
            )
        tiles = plan_for(width, height, model.tiling, self._max_pixels)
        restorations = [Restoration(model.batcher, tiles, model.tiles_ahead, priority) for _ in range(count)]
        # Its threads end a little later than a client that hangs up, and only then is what they hold given back.
        task = self._denoise.watch(self._work(model, batch, restorations))
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()

        def finish(_task: "asyncio.Task[Pixels]") -> None:
            if not finished.done():
                finished.set_result(None)

        task.add_done_callback(finish)
        try:
            await client.unless_gone(finished)
        except (ClientGone, asyncio.CancelledError):
            for restoration in restorations:
                restoration.stop()
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._metrics.cancelled("infer", count)
            raise
        restored = task.result()
        self._observe(model, restorations)
        return restored

    async def _work(self, model: ServedModel, batch: Pixels, restorations: Sequence[Restoration]) -> Pixels:
        count, height, width, _ = batch.shape
        places, pixels = self._denoise.places(model.name), self._denoise.pixels
        with taken(count, *places) as answered, taken(count * height * width, pixels) as restored_all:
            with model.in_use():
                restored = await self._restore(batch, restorations)
            answered()
            restored_all()
        return restored

    async def _restore(self, batch: Pixels, restorations: Sequence[Restoration]) -> Pixels:
        restored = np.empty(batch.shape, np.uint8)

        def restore(index: int) -> None:
            photograph = Photograph(Image.fromarray(batch[index]), None, b"", [])
            try:
                restorations[index].run(photograph)
            except BaseException:  # whatever it was, the request fails with it: the others need not go on
                for restoration in restorations:
                    restoration.stop()
                raise
            restored[index] = np.asarray(photograph.image)

        steps = [self._denoise.in_thread(restore, index) for index in range(len(batch))]
        results = await asyncio.gather(*steps, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
            raise error
        return restored

    def _observe(self, model: ServedModel, restorations: Sequence[Restoration]) -> None:
        for restoration in restorations:
            tiles = restoration.tiles
            self._metrics.stage("denoise", restoration.seconds, model.name)
            self._metrics.tiles(model.name, len(tiles.runs_s))
            self._statistics.tiles(model, tiles.waits_s, tiles.runs_s)
            for waited, ran in zip(tiles.waits_s, tiles.runs_s, strict=True):
                self._metrics.stage("queue", waited, model.name)
                self._metrics.stage("infer", ran, model.name)
