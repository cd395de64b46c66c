"""What can go wrong with a request, each with its HTTP status, a code for machines and a hint for people.

    RequestError
    ├── BadImage           400  empty, truncated, not an image, contradicting its own header
    ├── BadVideo           400  the same of a clip, or a frame rate that cannot be
    ├── BadTensor          400  a request of the Open Inference Protocol that contradicts itself or its model
    ├── Unauthorized       401  no API key came, or one that is not known
    ├── Forbidden          403  the key is not for this, or a page of another site asks
    ├── NotFound           404  no such model or path
    ├── WrongMethod        405  the path exists, the method does not
    ├── NotAcceptable      406  none of the types that the client accepts can be made
    ├── BodyTimeout        408  the body did not arrive in time
    ├── TooLarge           413  bytes, pixels, frames or files over a limit
    ├── WrongContentType   415  a body of a kind that is not read here
    ├── BadField           422  a parameter, the model's task or the body's structure
    ├── Overloaded         429  too much in flight; says when to come back
    ├── EngineFailed       500  the model failed on this picture
    ├── NotReady           503  warming up, draining, or an engine died
    └── DeadlineExceeded   504  the time that the request was given is over

Every body reads ``{"error": {"code", "message", "hint"}, "id"}``: the message says what came and what was needed, the
hint says what to do. Under /v2, the Open Inference Protocol, it reads ``{"error": "message; hint"}``.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

import orjson

OIP = "/v2"  # where the Open Inference Protocol lives


def is_oip(path: str) -> bool:
    """Whether a path is one of the Open Inference Protocol's."""
    return path == OIP or path.startswith(f"{OIP}/")


class RequestError(Exception):
    """A request, or one picture of it, cannot be answered."""

    status: ClassVar[int] = 500

    def __init__(self, code: str, message: str, hint: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = headers or {}

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "hint": self.hint}

    def body(self, request_id: str, path: str) -> bytes:
        """The JSON that says it, in the shape that clients of ``path`` read."""
        if is_oip(path):
            return orjson.dumps({"error": f"{self.message}; {self.hint}"})
        return orjson.dumps({"error": self.as_dict(), "id": request_id})


class BadImage(RequestError):
    """The bytes are no picture that can be read."""

    status = 400


class BadVideo(RequestError):
    """The bytes are no clip that can be read."""

    status = 400


class BadTensor(RequestError):
    """A request of the Open Inference Protocol contradicts itself or its model."""

    status = 400


class Unauthorized(RequestError):
    """No API key came, or one that is not known."""

    status = 401


class Forbidden(RequestError):
    """The key is not for this, or a page of another site asks."""

    status = 403


class NotFound(RequestError):
    """No such model or path."""

    status = 404


class WrongMethod(RequestError):
    """The path does not take this method."""

    status = 405


class NotAcceptable(RequestError):
    """None of the types that the client accepts can be made."""

    status = 406


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    status = 408


class TooLarge(RequestError):
    """Over a limit of bytes, pixels, frames or files."""

    status = 413


class WrongContentType(RequestError):
    """The body is of a kind that is not read here."""

    status = 415


class BadField(RequestError):
    """A field has a value that makes no sense."""

    status = 422


class Overloaded(RequestError):
    """Too much in flight."""

    status = 429

    def __init__(self, message: str, retry_after_s: int) -> None:
        hint = f"try again in {retry_after_s} s, with fewer requests at a time"
        super().__init__("overloaded", message, hint, headers={"Retry-After": str(retry_after_s)})


class EngineFailed(RequestError):
    """The model failed on this picture."""

    status = 500


class NotReady(RequestError):
    """Warming up, draining, or dead."""

    status = 503

    def __init__(self, message: str, hint: str = "wait until GET /readyz answers 200") -> None:
        super().__init__("not_ready", message, hint, headers={"Retry-After": "1"})


class DeadlineExceeded(RequestError):
    """The time that the request was given is over."""

    status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "deadline_exceeded",
            f"there was no answer within the {seconds:g} s that the request was given",
            "ask for less at a time, or give it longer if the server's request_timeout_s allows that",
        )


def internal_error() -> RequestError:
    """What a client is told of our own mistakes: nothing but where to look."""
    return EngineFailed(
        "internal_error", "the server failed on this request", "the server's log has the cause under this id"
    )


def nearest(wanted: str, known: Iterable[str]) -> str:
    """A hint naming what is there, the closest match first."""
    names = sorted(known)
    close = difflib.get_close_matches(wanted[:128], names, n=1, cutoff=0.5)
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"did you mean {close[0]!r}? There are: {listed}" if close else f"there are: {listed}"


def quoted(text: str, limit: int = 80) -> str:
    """Client text as it may appear in a message: escaped, in quotes, and cut to ``limit`` characters."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
