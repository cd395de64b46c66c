"""The client for asyncio: every call with one deadline for all of its attempts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx

from skipvit.client.address import DEFAULT_URL, base_headers, checked_url, unreachable
from skipvit.client.answers import (
    Classification,
    Denoised,
    DenoisedVideo,
    ModelInfo,
    read_classification,
    read_models,
)
from skipvit.client.errors import BrokenAnswer, ClientError, DeadlineExceeded, Unreachable
from skipvit.client.pictures import PictureLike, Upload, read_file, read_picture
from skipvit.client.reading import body_of, check_output, checked_headers, error_of, write_body
from skipvit.client.retrying import Attempts, Retries

T = TypeVar("T")
_MAX_JSON_BYTES = 64 << 20
_MAX_PICTURE_BYTES = 1 << 30
_MAX_CONNECTIONS = 256
# The server's header, and the values that it takes.
_TIMEOUT = "X-Request-Timeout"
_SHORTEST_S, _LONGEST_S = 0.001, 3600.0
_RAW = {"Content-Type": "application/octet-stream"}


class AsyncClient:
    """Talks to one server, over connections that it keeps.

    Args:
        url: of the server, such as "http://127.0.0.1:8000".
        api_key: sent as ``Authorization: Bearer``, or None.
        timeout_s: longest that a call may take, its retries and their waits included; of classify_many, each picture.
        retries: after 429, 503 and a refused connection; a number of them, or a ``Retries``.

    Raises:
        BadInput: the URL is none, or no header can carry the key.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int | Retries = 5,
    ) -> None:
        self.url = checked_url(url)
        self._timeout_s = timeout_s
        self._retries = retries if isinstance(retries, Retries) else Retries(retries)
        limits = httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS)
        # One deadline holds for the whole call; httpx's own would count from each byte anew.
        self._http = httpx.AsyncClient(headers=base_headers(api_key), timeout=None, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def classify(
        self, picture: PictureLike, *, model: str | None = None, top_k: int | None = None
    ) -> Classification:
        """Returns the likeliest classes of a picture.

        Args:
            picture: a path; bytes of a file; a Pillow image; or uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
            model: by name; None takes the server's first classifier.
            top_k: number of classes; None leaves it to the server.

        Raises:
            ClientError: one of its kinds; see ``skipvit.client.errors``.
        """
        upload = await asyncio.to_thread(read_picture, picture)

        async def read(answer: httpx.Response) -> Classification:
            return read_classification(await body_of(answer, _MAX_JSON_BYTES), upload.name)

        return await self._call("POST", "/v1/classify", read, _given(model=model, top_k=top_k), upload)

    async def classify_many(
        self,
        pictures: Iterable[PictureLike],
        *,
        model: str | None = None,
        top_k: int | None = None,
        concurrency: int = 8,
        done: Callable[[], object] | None = None,
    ) -> list[Classification | ClientError]:
        """Returns a result or an error for each picture, in their order: a bad picture fails alone.

        Each picture is a request of its own, which costs the server less than a form of many, and which it batches
        all the same. Pictures are taken from the iterable as they are needed. Once nothing answers at the address,
        the pictures that are left get the same error without being tried.

        Args:
            concurrency: most requests at a time.
            done: called after each picture.
        """
        results: dict[int, Classification | ClientError] = {}
        gone: Unreachable | None = None
        waiting = enumerate(pictures)

        async def work() -> None:
            nonlocal gone
            for index, picture in waiting:
                try:
                    results[index] = gone or await self.classify(picture, model=model, top_k=top_k)
                except ClientError as error:
                    results[index] = error
                    gone = error if isinstance(error, Unreachable) else gone
                if done is not None:
                    done()

        async with asyncio.TaskGroup() as group:
            for _ in range(max(1, concurrency)):
                group.create_task(work())
        return [results[index] for index in sorted(results)]

    async def denoise(
        self,
        picture: PictureLike,
        *,
        model: str | None = None,
        accept: str = "image/png",
        quality: int | None = None,
    ) -> Denoised:
        """Returns the picture without its noise, as a file's bytes.

        Args:
            picture: as for ``classify``; of any size that the server takes.
            model: by name; None takes the server's first denoiser.
            accept: image/png, which is exact, image/jpeg or image/webp.
            quality: 1 to 100, of a JPEG or WebP.

        Raises:
            ClientError: one of its kinds.
        """
        upload = await asyncio.to_thread(read_picture, picture)

        async def read(answer: httpx.Response) -> Denoised:
            fields = checked_headers(answer, "image/")
            return Denoised(data=await body_of(answer, _MAX_PICTURE_BYTES), **fields)

        return await self._call("POST", "/v1/denoise", read, _given(model=model, quality=quality), upload, accept)

    async def denoise_video(
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
        """Writes the clip without its noise to ``out``, which appears complete or not at all.

        Args:
            clip: a path, or bytes of a file.
            out: the file to write; its folder exists.
            model: by name; None takes the server's first denoiser of video.
            sigma: standard deviation of the noise in 1/255, 0 to 255; None has the server measure it.
            accept: video/mp4, or video/x-matroska, which is exact.
            overwrite: whether ``out`` may exist.
            received: called with the size of each piece of the answer, in bytes.

        Raises:
            ClientError: one of its kinds.
        """
        out = Path(out)
        check_output(out, overwrite)
        upload = Upload(None, clip) if isinstance(clip, bytes) else await asyncio.to_thread(read_file, clip)

        async def read(answer: httpx.Response) -> DenoisedVideo:
            fields = checked_headers(answer, "video/")
            size = await write_body(answer, out, overwrite, received)
            return DenoisedVideo(path=out, size=size, **fields)

        return await self._call("POST", "/v1/denoise/video", read, _given(model=model, sigma=sigma), upload, accept)

    async def models(self) -> list[ModelInfo]:
        """Returns every served model; the first of a task is its default. Raises ClientError."""

        async def read(answer: httpx.Response) -> list[ModelInfo]:
            return read_models(await body_of(answer, _MAX_JSON_BYTES))

        return await self._call("GET", "/v1/models", read)

    async def _call(
        self,
        method: str,
        path: str,
        read: Callable[[httpx.Response], Awaitable[T]],
        parameters: dict[str, str] | None = None,
        upload: Upload | None = None,
        accept: str = "application/json",
    ) -> T:
        """Asks until there is an answer, an error that stays, or no time left."""
        content = upload.data if upload else None
        headers = {"Accept": accept, **(_RAW if upload else {})}
        request = self._http.build_request(
            method, self.url + path, params=parameters or None, content=content, headers=headers
        )
        attempts = Attempts(self._retries, self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                while True:
                    # What is left for this attempt, so that the server drops what nobody will wait for.
                    request.headers[_TIMEOUT] = f"{min(max(attempts.left_s(), _SHORTEST_S), _LONGEST_S):.3f}"
                    try:
                        async with self._answer(request) as answer:
                            return await read(answer)
                    except ClientError as error:
                        if error.code == DeadlineExceeded.code:  # the server's own, which may give less
                            raise DeadlineExceeded(error.message, error.hint) from error
                        pause = attempts.pause_after(error)
                    await asyncio.sleep(pause)
        except TimeoutError:
            if deadline.expired():
                raise attempts.out_of_time() from None
            raise

    @asynccontextmanager
    async def _answer(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """The answer to one attempt, whose status is 200; whatever else came is raised."""
        try:
            answer = await self._http.send(request, stream=True)
            try:
                if answer.status_code != 200:
                    raise await error_of(answer)
                yield answer
            finally:
                await answer.aclose()
        except httpx.ConnectError as error:
            raise unreachable(self.url, error) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise BrokenAnswer(
                f"the connection to {self.url} broke before the answer was complete ({error or type(error).__name__})",
                "see the server's log; is it still running?",
            ) from error


def _given(**parameters: str | float | None) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None}
