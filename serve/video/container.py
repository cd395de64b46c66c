"""What a clip's bytes say before any decoder sees them: which container it is, and whether it is all there.

Only the outermost structure is read, by its documented lengths: ISO/IEC 14496-12 (boxes of MP4 and MOV), RFC 8794
and RFC 9559 (EBML elements of Matroska and WebM), and the RIFF chunks of AVI. Demuxers take a file that is cut short
for a shorter clip, so this is the only place that can tell.
"""

import struct
from collections.abc import Iterator
from typing import Literal

from serve.errors import BadVideo

Container = Literal["mp4", "matroska", "avi"]

KINDS = "MP4, MOV, Matroska, WebM or AVI"
_CONVERT = f"convert it to {KINDS}, for example: ffmpeg -i CLIP clip.mp4"
_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
# Pictures that live in the same boxes as MP4.
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif")
_PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"II*\x00": "TIFF", b"MM\x00*": "TIFF"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
MAX_RATE = 250  # frames/s: phones film at 240, and their measured averages waver about it
# A fragmented MP4 has two boxes per fragment; more than this is no clip but an attempt to keep us busy.
_MOST_BOXES = 20_000


def container_of(data: bytes, what: str) -> Container:
    """Returns the kind of container that ``data`` is, complete to its last byte; ``what`` names it in messages.

    Raises:
        BadVideo: it is empty, of another kind, cut short, or claims a frame rate of zero.
    """
    if not data:
        raise BadVideo("empty_video", f"{what} is empty: it has 0 bytes", "send the bytes of a clip")
    if data[4:8] in _MP4_STARTS and data[8:12] not in _PICTURE_BRANDS:
        _check_mp4(data, what)
        return "mp4"
    if data.startswith(_EBML):
        _check_matroska(data, what)
        return "matroska"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        _check_avi(data, what)
        return "avi"
    raise _not_a_video(data, what)


def _not_a_video(data: bytes, what: str) -> BadVideo:
    picture = next((name for start, name in _PICTURES.items() if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        picture = "WebP"
    if data[4:8] == b"ftyp":
        picture = "HEIC or AVIF"
    if picture:
        return BadVideo("not_a_video", f"{what} is a {picture} picture", "send pictures to /v1/denoise")
    found = f"its {len(data)} bytes start with {data[:12]!r}"
    return BadVideo("not_a_video", f"{what} is not a clip that this server reads: {found}", _CONVERT)


def truncated(what: str, detail: str) -> BadVideo:
    """The error for a clip whose end is missing."""
    return BadVideo(
        "truncated_video", f"{what} is cut short: {detail}", "send the whole file; compare its size with the original's"
    )


def _check_mp4(data: bytes, what: str) -> None:
    names = set()
    for name, end in _boxes(data, what):
        names.add(name)
        if end > len(data):
            raise truncated(what, f"its box {name.decode('latin-1')!r} ends at byte {end} of {len(data)}")
    if b"moov" not in names:
        raise truncated(what, "it has no 'moov' box, which says what is where")


def _boxes(data: bytes, what: str) -> Iterator[tuple[bytes, int]]:
    """Name and end of each outermost box; what is too short for a box at the end of the file is passed over."""
    at = 0
    for _ in range(_MOST_BOXES):
        if len(data) - at < 8:
            return
        size, name = struct.unpack_from(">I4s", data, at)
        if size == 1 and len(data) - at >= 16:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        elif size == 0:  # up to the end of the file
            size = len(data) - at
        if size < 8:
            raise BadVideo("bad_video", f"{what} has a box of {size} bytes at byte {at}", _CONVERT)
        yield name, at + size
        at += size
    raise BadVideo("bad_video", f"{what} has over {_MOST_BOXES} boxes", _CONVERT)


def _check_matroska(data: bytes, what: str) -> None:
    try:
        header_bytes, at = _ebml_length(data, 4)
        at += header_bytes or 0
        if data[at : at + 4] != _SEGMENT:
            raise BadVideo("bad_video", f"{what} has no segment after its EBML header", _CONVERT)
        segment_bytes, at = _ebml_length(data, at + 4)
    except IndexError:
        raise truncated(what, f"it ends within its header, after {len(data)} bytes") from None
    if segment_bytes is not None and at + segment_bytes > len(data):
        raise truncated(what, f"its segment ends at byte {at + segment_bytes} of {len(data)}")


def _ebml_length(data: bytes, at: int) -> tuple[int | None, int]:
    """A variable-length number at ``at`` and where it ends; None for the length that means unknown."""
    width = 9 - data[at].bit_length()
    if width > 8 or at + width > len(data):
        raise IndexError
    bits = 7 * width
    value = int.from_bytes(data[at : at + width], "big") & ((1 << bits) - 1)
    return (None if value == (1 << bits) - 1 else value), at + width


def _check_avi(data: bytes, what: str) -> None:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated(what, f"it says that it has {end} bytes, and {len(data)} came")
    at = data.find(b"vids", 0, 1 << 16)  # fccType of the first video stream's header
    if at >= 4 and len(data) >= at + 28:
        # Demuxers put 25 frames/s where the header says zero; a guess of ours would play at a wrong speed too.
        scale, rate = struct.unpack_from("<II", data, at + 20)
        if not scale or not rate:
            raise bad_frame_rate(what, f"{rate}/{scale} frames/s")


def bad_frame_rate(what: str, rate: str) -> BadVideo:
    """The error for a clip that cannot be played at the speed it claims."""
    return BadVideo(
        "bad_frame_rate",
        f"{what} claims {rate}; more than 0 and no more than {MAX_RATE} were needed",
        "write it again at the rate it should play at, for example: ffmpeg -i CLIP -r 25 clip.mp4",
    )
