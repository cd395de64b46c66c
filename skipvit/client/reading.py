"""Reading an answer piece by piece: into memory up to a limit, into a file, or as an error."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from skipvit.client.answers import read_headers
from skipvit.client.errors import MAX_ERROR_BYTES, BadInput, BrokenAnswer, ServerError, server_error
from skipvit.client.retrying import parse_retry_after

_NOT_OURS = "check the URL, and that it is a skipvit server"


async def error_of(answer: httpx.Response) -> ServerError:
    """The error that an answer of a status other than 200 stands for."""
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > MAX_ERROR_BYTES:
            break
    headers = answer.headers
    retry_after_s = parse_retry_after(headers.get("Retry-After", ""), headers.get("Date", ""))
    request_id = headers.get("X-Request-ID", "")
    return server_error(answer.status_code, bytes(body), request_id, retry_after_s, answer.reason_phrase)


def checked_headers(answer: httpx.Response, wanted: str) -> dict[str, Any]:
    """The fields of ``Restored`` in the headers. Raises BrokenAnswer if the type does not begin with ``wanted``."""
    fields = read_headers({name.lower(): value for name, value in answer.headers.items()})
    if not fields["media_type"].startswith(wanted):
        raise BrokenAnswer(f"the answer is {fields['media_type'] or 'of no type'}, {wanted}* was needed", _NOT_OURS)
    return fields


async def body_of(answer: httpx.Response, most: int) -> bytes:
    """The body. Raises BrokenAnswer once it is over ``most`` bytes."""
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > most:
            raise BrokenAnswer(f"the answer is over {most} bytes", _NOT_OURS)
    return bytes(body)


async def write_body(
    answer: httpx.Response, out: Path, overwrite: bool, received: Callable[[int], object] | None
) -> int:
    """Streams the body to a file beside ``out``, which takes that name when it is complete; returns its bytes.

    Raises:
        BadInput: the file cannot be written, or ``out`` appeared meanwhile.
    """
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    size = 0
    try:
        with temporary.open("wb") as file:
            async for piece in answer.aiter_bytes():
                file.write(piece)
                size += len(piece)
                if received is not None:
                    received(len(piece))
        check_output(out, overwrite)
        temporary.replace(out)
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error.strerror or error}", "make room, or give another") from None
    finally:
        temporary.unlink(missing_ok=True)
    return size


def check_output(out: Path, overwrite: bool) -> None:
    """Raises BadInput if ``out`` could not be written, before a server works for it."""
    if out.is_dir():
        raise BadInput(f"{out} is a folder", "give the path of a file")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        raise BadInput(f"{out.parent} is no folder that can be written to", "make it, or give another")
    if out.exists() and not overwrite:
        raise BadInput(f"{out} exists", "give another path, or --force (overwrite=True) to replace it")
