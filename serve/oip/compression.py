"""Compressed bodies of the Open Inference Protocol, as Triton speaks them: gzip, and deflate in zlib's wrapping."""

import asyncio
import zlib
from collections.abc import Callable
from typing import Literal

from serve.errors import BadTensor, TooLarge, WrongContentType, quoted

Coding = Literal["gzip", "deflate"]

_WBITS: dict[str, int] = {"gzip": 31, "deflate": 15}
_PIECE_BYTES = 1 << 20
_LEVEL = 1  # of tensors: higher levels take several times as long for a few per cent
_MAX_CODINGS = 16
_WORTH_BYTES = 512  # below it, the wrapping takes what compressing saves


def coding_of(content_encoding: str) -> Coding | None:
    """How a request's body is compressed, None if it is not. Raises WrongContentType at any other coding."""
    match content_encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return "gzip"
        case "deflate":
            return "deflate"
    raise WrongContentType(
        "wrong_content_encoding", f"the body is encoded as {quoted(content_encoding)}", "use gzip, deflate or none"
    )


async def decompressed(raw: bytes, coding: Coding, max_bytes: int, take: Callable[[int], None]) -> bytes:
    """Returns what ``raw`` was made from, piece by piece and not a byte over the limit: a bomb is not unpacked.

    Args:
        take: called with the size of each piece; accounts for its memory, or raises.

    Raises:
        BadTensor: it is damaged, cut short, or has more behind it.
        TooLarge: it becomes more than ``max_bytes``.
    """
    stream = zlib.decompressobj(_WBITS[coding])
    pieces: list[bytes] = []
    left, size = raw, 0
    while not stream.eof:
        try:
            piece = await asyncio.to_thread(stream.decompress, left, min(_PIECE_BYTES, max_bytes - size + 1))
        except zlib.error as error:
            raise _bad(f"the body is not {coding} data ({error})") from None
        size += len(piece)
        if size > max_bytes:
            raise TooLarge(
                "body_too_large",
                f"the body becomes more than {max_bytes} bytes, which is the limit",
                "send fewer rows per request",
            )
        take(len(piece))
        pieces.append(piece)
        left = stream.unconsumed_tail
        if not piece and not left and not stream.eof:
            raise _bad(f"the body's {coding} data is cut short")
    if stream.unused_data:
        raise _bad(f"{len(stream.unused_data)} bytes follow the body's {coding} data")
    return b"".join(pieces)


def _bad(message: str) -> BadTensor:
    return BadTensor("bad_compression", message, "send the body as one whole stream, or uncompressed")


def preferred_coding(accept_encoding: str) -> Coding | None:
    """The coding of an answer that an Accept-Encoding header (RFC 9110, 12.5.3) names and likes best, None if none."""
    weights = {"gzip": 0.0, "deflate": 0.0}
    for part in accept_encoding.split(",")[:_MAX_CODINGS]:
        name, _, parameter = (text.strip().lower() for text in part.partition(";"))
        if name in weights:
            weights[name] = _weight(parameter)
    if not any(weights.values()):
        return None
    return "deflate" if weights["deflate"] > weights["gzip"] else "gzip"


def _weight(parameter: str) -> float:
    text = parameter.removeprefix("q=")
    digits = text.replace(".", "", 1)
    if not parameter:
        return 1.0
    return min(1.0, float(text)) if digits.isascii() and digits.isdigit() and len(text) <= 8 else 0.0


async def compressed(body: bytes, coding: Coding | None) -> tuple[bytes, dict[str, str]]:
    """The body and the headers that say how it is compressed; a small one stays as it is."""
    if coding is None or len(body) < _WORTH_BYTES:
        return body, {}
    return await asyncio.to_thread(_compress, body, coding), {"Content-Encoding": coding}


def _compress(body: bytes, coding: Coding) -> bytes:
    stream = zlib.compressobj(_LEVEL, wbits=_WBITS[coding])
    return stream.compress(body) + stream.flush()
