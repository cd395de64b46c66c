"""What can go wrong between a client and a server, each saying what to do.

ClientError
├── BadInput            the picture or clip never left: no such file, not uint8, an answer's file that exists
├── Unreachable         nothing listens there, or the address has no server
├── DeadlineExceeded    the call's time was over, its retries included
├── BrokenAnswer        an answer that was cut short, or is none of this server's
└── ServerError         the server's own words: status, code, message, hint
    ├── Refused         any other 4xx: the request is wrong, and sending it again changes nothing
    ├── Overloaded      429
    ├── NotReady        503
    └── ServerFailed    any other 5xx
"""

import json

# An error's body is some hundred bytes; what comes from elsewhere is not read beyond this.
MAX_ERROR_BYTES = 1 << 16


class ClientError(Exception):
    """A call that has no answer, or a picture that has none."""

    code = "client_error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, object]:
        """The error as the server writes its own: code, message and hint."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class BadInput(ClientError):
    """What was to be sent, or written, cannot be."""

    code = "bad_input"


class Unreachable(ClientError):
    """No server answered."""

    code = "unreachable"

    def __init__(self, message: str, hint: str = "", *, refused: bool = False) -> None:
        super().__init__(message, hint)
        self.refused = refused


class DeadlineExceeded(ClientError):
    """The time of the call was over."""

    code = "deadline_exceeded"


class BrokenAnswer(ClientError):
    """An answer that cannot be what the server meant."""

    code = "broken_answer"


class ServerError(ClientError):
    """The server said no.

    Attributes:
        status: HTTP status; 200 where one picture of an answered request failed.
        code: the server's word for machines, such as "too_many_pixels".
        request_id: under which the server's log has it, or "".
        retry_after_s: seconds after which the server wants to be asked again, or None.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        *,
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def as_dict(self) -> dict[str, object]:
        """Code, message, hint and HTTP status, and the request's id if it has one."""
        said = {**super().as_dict(), "status": self.status}
        return {**said, "id": self.request_id} if self.request_id else said


class Refused(ServerError):
    """The request is wrong."""


class Overloaded(ServerError):
    """Too much in flight there."""


class NotReady(ServerError):
    """Warming up, draining, or dead."""


class ServerFailed(ServerError):
    """The server's fault."""


def server_error(
    status: int, body: bytes, request_id: str, retry_after_s: float | None, reason: str = ""
) -> ServerError:
    """The error that an answer of a status other than 200 stands for; the body may be anything."""
    code, message, hint = _said(body) or (
        f"http_{status}",
        f"HTTP status {status} {reason}".rstrip(),
        "that is no error of skipvit-serve's; is the URL right, is there a proxy between?",
    )
    kind = {429: Overloaded, 503: NotReady}.get(status, Refused if 400 <= status < 500 else ServerFailed)
    return kind(status, code, message, hint, request_id=request_id, retry_after_s=retry_after_s)


def _said(body: bytes) -> tuple[str, str, str] | None:
    """The code, message and hint of ``{"error": {...}}``, or None if the body is something else."""
    try:
        error = json.loads(body)["error"]
        code, message = error["code"], error["message"]
        hint = error.get("hint", "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return (code, message, hint) if all(isinstance(text, str) for text in (code, message, hint)) else None
