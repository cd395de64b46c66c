"""The client for programs without asyncio: ``AsyncClient`` on an event loop of its own, in a thread.

So both keep the same deadlines and retries to the letter, and this one works in notebooks, whose thread has a loop
already, and from many threads at once. It does not outlive a fork: make one in each process.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from skipvit.client.address import DEFAULT_URL
from skipvit.client.answers import Classification, Denoised, DenoisedVideo, ModelInfo
from skipvit.client.asynchronous import AsyncClient
from skipvit.client.errors import ClientError
from skipvit.client.pictures import PictureLike
from skipvit.client.retrying import Retries

T = TypeVar("T")


class Client:
    """Talks to one server. Arguments, answers and errors are those of ``AsyncClient``."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int | Retries = 5,
    ) -> None:
        self._client = AsyncClient(url, api_key=api_key, timeout_s=timeout_s, retries=retries)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="skipvit-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The server's address."""
        return self._client.url

    def close(self) -> None:
        """Closes the connections and ends the thread; a second time does nothing."""
        if self._loop.is_closed():
            return
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        """Lets what was cancelled end, then closes what it used."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()
        await self._loop.shutdown_default_executor()

    def classify(self, picture: PictureLike, *, model: str | None = None, top_k: int | None = None) -> Classification:
        """Returns the likeliest classes of a picture; see ``AsyncClient.classify``."""
        return self._wait(self._client.classify(picture, model=model, top_k=top_k))

    def classify_many(
        self,
        pictures: Iterable[PictureLike],
        *,
        model: str | None = None,
        top_k: int | None = None,
        concurrency: int = 8,
        done: Callable[[], object] | None = None,
    ) -> list[Classification | ClientError]:
        """Returns a result or an error for each picture, in order; see ``AsyncClient.classify_many``.

        The iterable and ``done`` are called in the client's thread.
        """
        return self._wait(
            self._client.classify_many(pictures, model=model, top_k=top_k, concurrency=concurrency, done=done)
        )

    def denoise(
        self,
        picture: PictureLike,
        *,
        model: str | None = None,
        accept: str = "image/png",
        quality: int | None = None,
    ) -> Denoised:
        """Returns the picture without its noise; see ``AsyncClient.denoise``."""
        return self._wait(self._client.denoise(picture, model=model, accept=accept, quality=quality))

    def denoise_video(
        self,
        clip: str | Path | bytes,
        out: str | Path,
        *,
        model: str | None = None,
        sigma: float | None = None,
        accept: str = "video/mp4",
        overwrite: bool = False,
        received: Callable[[int], object] | None = None,
    ) -> DenoisedVideo:
        """Writes the clip without its noise to ``out``; see ``AsyncClient.denoise_video``."""
        return self._wait(
            self._client.denoise_video(
                clip, out, model=model, sigma=sigma, accept=accept, overwrite=overwrite, received=received
            )
        )

    def models(self) -> list[ModelInfo]:
        """Returns every served model; see ``AsyncClient.models``."""
        return self._wait(self._client.models())

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            call.close()
            raise RuntimeError("the client is closed; make another")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C here must not leave the request running there
            raise
