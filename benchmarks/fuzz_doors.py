"""The doors through which bytes come in, and sound inputs for each: the routes, and the files that a server reads."""

import base64
import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from random import Random
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from benchmarks.fuzz_models import SIDE
from benchmarks.fuzz_mutations import mutated, mutated_json

Headers = tuple[tuple[bytes, bytes], ...]
_FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff"}
_FORM = b"form-boundary"
_LENGTH = b"inference-header-content-length"
SHADES, SIMPLE, TEXT = (f"/v2/models/{name}/infer" for name in ("shades", "simple", "text"))


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as an ASGI server hands it on: names of headers in lower case, the path without its query."""

    path: str
    body: bytes = b""
    headers: Headers = ()
    query: bytes = b""
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Door:
    """A way in: ``make`` gives one input, of the random numbers alone; a file's input is its bytes.

    ``weight`` is the door's share of all inputs.
    """

    name: str
    weight: float
    make: Callable[[Random], Request | bytes]


def doors(files: dict[str, list[bytes]]) -> list[Door]:
    """All of them. ``files`` has the names of files that a server reads, each with sound contents."""
    pictures, clips = _pictures(), [_clip("mp4", "mpeg4", "yuv420p"), _clip("matroska", "ffv1", "bgr0")]
    routes = [
        Door("classify, picture", 14, partial(_picture, "/v1/classify", pictures)),
        Door("classify, form", 10, partial(_form, "/v1/classify", pictures)),
        Door("classify, JSON", 10, partial(_json_pictures, pictures)),
        Door("denoise, picture", 10, partial(_picture, "/v1/denoise", pictures)),
        Door("denoise, form", 5, partial(_form, "/v1/denoise", pictures)),
        Door("denoise video", 0.1, partial(_video, clips)),
        Door("OIP, JSON", 14, partial(_oip_json, pictures)),
        Door("OIP, binary", 12, _oip_binary),
        Door("OIP, compressed", 6, _oip_compressed),
        Door("OIP, body without JSON", 4, partial(_oip_raw, pictures)),
        Door("OIP, repository", 3, _repository),
        Door("queries", 5, partial(_query, pictures)),
        Door("headers", 6, partial(_headers, pictures)),
        Door("paths", 4, _paths),
    ]
    return routes + [Door(name, 3, partial(_file, contents)) for name, contents in files.items()]


# --- sound inputs ---


def _pictures() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    found = {}
    for name, medium in _FORMATS.items():
        buffer = io.BytesIO()
        image.save(buffer, name)
        found[medium] = buffer.getvalue()
    buffer = io.BytesIO()
    image.convert("RGBA").save(buffer, "PNG", interlace=1)
    return {**found, "png; turned": buffer.getvalue()}


def _clip(container: str, codec: str, layout: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options={"fflags": "+bitexact"}) as file:  # without random names in it
        stream: Any = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, layout
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(4):
            frame = VideoFrame.from_ndarray(np.full((24, 32, 3), 50 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


def _tensor(name: str, shape: Sequence[int], datatype: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, **more}


def _oip_documents(pictures: dict[str, bytes]) -> list[tuple[str, dict[str, Any]]]:
    encoded = base64.b64encode(pictures["png"]).decode()  # text is no picture, but is read as far as that
    pixels = _tensor("image", (1, SIDE, SIDE, 3), "UINT8", data=[7] * (SIDE * SIDE * 3))
    likeliest = {"name": "probabilities", "parameters": {"classification": 2, "binary_data": True}}
    numbers = [_tensor(f"INPUT{k}", (1, 16), "INT32", data=list(range(16))) for k in (0, 1)]
    both = [{"name": "OUTPUT0", "parameters": {"binary_data": False}}, {"name": "OUTPUT1"}]
    texts = _tensor("INPUT0", (2, 2), "BYTES", data=[["a", "é"], ["", "\U0001f4a9"]])
    small = _tensor("images", (1, 5, 6, 3), "UINT8", data=list(range(90)))
    return [
        (SHADES, {"id": "1", "inputs": [pixels], "outputs": [likeliest]}),
        (SHADES, {"inputs": [_tensor("image", (1,), "BYTES", data=[encoded])]}),
        (SIMPLE, {"inputs": numbers, "outputs": both, "parameters": {"timeout": 10_000_000, "priority": 1}}),
        (TEXT, {"inputs": [texts], "parameters": {"binary_data_output": True}}),
        ("/v2/models/clean/infer", {"inputs": [small]}),
    ]


def _binary(inputs: Sequence[tuple[str, Sequence[int], str, bytes]], path: str) -> tuple[str, bytes, bytes]:
    """Path, JSON and what follows it."""
    listed = [
        _tensor(name, shape, datatype, parameters={"binary_data_size": len(raw)})
        for name, shape, datatype, raw in inputs
    ]
    head = json.dumps({"inputs": listed, "parameters": {"binary_data_output": True}}).encode()
    return path, head, b"".join(raw for _, _, _, raw in inputs)


def _binary_requests() -> list[tuple[str, bytes, bytes]]:
    numbers = np.arange(16, dtype="<i4").tobytes()
    strings = b"".join(struct.pack("<I", len(text)) + text for text in (b"a", "é".encode(), b""))
    return [
        _binary([("INPUT0", (1, 16), "INT32", numbers), ("INPUT1", (1, 16), "INT32", numbers)], SIMPLE),
        _binary([("INPUT0", (1, 3), "BYTES", strings)], TEXT),
        _binary([("image", (2, SIDE, SIDE, 3), "UINT8", bytes(2 * SIDE * SIDE * 3))], SHADES),
    ]


# --- inputs that are not ---


def _picture(path: str, pictures: dict[str, bytes], rng: Random) -> Request:
    medium, raw = rng.choice(list(pictures.items()))
    kind = f"image/{medium.split(';')[0]}" if rng.random() < 0.8 else "application/octet-stream"
    body = mutated(raw, list(pictures.values()), rng)
    query = b"" if rng.random() < 0.8 else rng.choice((b"top_k=2", b"format=png", b"quality=3", b"model=shades"))
    return Request(path, body, ((b"content-type", kind.encode()),), query)


def _form(path: str, pictures: dict[str, bytes], rng: Random) -> Request:
    medium, raw = rng.choice(list(pictures.items()))
    parts = [
        b'content-disposition: form-data; name="top_k"\r\n\r\n2',
        b'content-disposition: form-data; name="file"; filename="a.png"\r\ncontent-type: image/'
        + medium.split(";")[0].encode()
        + b"\r\n\r\n"
        + raw,
    ]
    whole = b"".join(b"--" + _FORM + b"\r\n" + part + b"\r\n" for part in parts[rng.randrange(2) :])
    whole += b"--" + _FORM + b"--\r\n"
    kind = b"multipart/form-data; boundary=" + _FORM
    if rng.random() < 0.2:
        kind = _header_value(mutated(kind, [], rng))
    return Request(path, mutated(whole, [whole], rng), ((b"content-type", kind),))


def _json_pictures(pictures: dict[str, bytes], rng: Random) -> Request:
    files = rng.sample(list(pictures.values()), 2)
    raw = json.dumps({"images": [base64.b64encode(file).decode() for file in files], "top_k": 2}).encode()
    body = mutated_json(raw, rng) if rng.random() < 0.5 else mutated(raw, [raw], rng)
    return Request("/v1/classify", body, ((b"content-type", b"application/json"),))


def _video(clips: Sequence[bytes], rng: Random) -> Request:
    body = mutated(rng.choice(clips), clips, rng)
    return Request("/v1/denoise/video", body, ((b"content-type", b"video/mp4"),))


def _oip_json(pictures: dict[str, bytes], rng: Random) -> Request:
    path, document = rng.choice(_oip_documents(pictures))
    raw = json.dumps(document).encode()
    body = mutated_json(raw, rng) if rng.random() < 0.7 else mutated(raw, [raw], rng)
    return Request(path, body)


def _oip_binary(rng: Random) -> Request:
    path, head, rest = rng.choice(_binary_requests())
    match rng.randrange(4):
        case 0:
            head = mutated_json(head, rng)
        case 1:
            head = mutated(head, [], rng)
        case 2:
            rest = mutated(rest, [], rng)
        case _:
            length = rng.choice((0, 1, len(head) - 1, len(head) + 1, len(head) + len(rest) + 1, -1, 10**30))
            return Request(path, head + rest, ((_LENGTH, str(length).encode()),))
    return Request(path, head + rest, ((_LENGTH, str(len(head)).encode()),))


def _oip_compressed(rng: Random) -> Request:
    path, head, rest = rng.choice(_binary_requests())
    raw = head + rest
    inside = rng.random() < 0.5
    if inside:
        raw = mutated(raw, [raw], rng)
    coding, packed = rng.choice(((b"gzip", gzip.compress(raw, mtime=0)), (b"deflate", zlib.compress(raw))))
    if rng.random() < 0.05:
        packed = zlib.compress(bytes(rng.choice((1 << 16, 1 << 24))))
    body = packed if inside else mutated(packed, [packed], rng)
    length = (_LENGTH, str(len(head)).encode())
    return Request(path, body, ((b"content-encoding", coding), length, (b"accept-encoding", coding)))


def _oip_raw(pictures: dict[str, bytes], rng: Random) -> Request:
    path = rng.choice((SHADES, TEXT, SIMPLE))
    return Request(path, mutated(rng.choice(list(pictures.values())), [], rng), ((_LENGTH, b"0"),))


def _repository(rng: Random) -> Request:
    path = rng.choice(("index", "models/simple/load", "models/simple/unload", "models/nothing/load"))
    raw = rng.choice((b'{"ready": true}', b"{}", b'{"parameters": {"config": "{}"}}'))
    return Request(f"/v2/repository/{path}", mutated_json(raw, rng) if rng.random() < 0.5 else mutated(raw, [], rng))


def _query(pictures: dict[str, bytes], rng: Random) -> Request:
    path = rng.choice(("/v1/classify", "/v1/denoise"))
    raw = rng.choice((b"top_k=3&model=shades", b"format=png&quality=80&model=clean", b"sigma=20", b"variant=shades"))
    query = bytes(byte for byte in mutated(raw, [raw], rng) if byte > 0x20)
    return Request(path, pictures["png"], ((b"content-type", b"image/png"),), query)


_NAMES = (
    b"content-type", b"content-length", b"content-encoding", b"accept", b"accept-encoding", b"authorization", b"origin",
    b"x-api-key", b"x-request-id", b"x-request-timeout", b"x-request-priority", b"traceparent", b"expect", _LENGTH,
    b"x-skipvit-variant", b"cookie", b"transfer-encoding", b"te", b"host", b"forwarded", b"x-forwarded-for",
)  # fmt: skip
_HEADER_VALUES = (
    b"image/png", b"image/*;q=0.5, */*;q=0", b"multipart/form-data; boundary=x", b"gzip", b"gzip;q=1.0, deflate;q=0.5",
    b"Bearer abc", b"Basic dTpw", b"17", b"2.5", b"high", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"http://localhost", b"3f2a", b"application/json; charset=utf-16",
)  # fmt: skip


def _headers(pictures: dict[str, bytes], rng: Random) -> Request:
    base = rng.choice(
        (
            Request("/v1/classify", pictures["png"], ((b"content-type", b"image/png"),)),
            Request("/v1/denoise", pictures["png"], ((b"content-type", b"image/png"),)),
            Request(SIMPLE, b'{"inputs": []}'),
            Request("/livez", method="GET"),
            Request("/v1/models", method="GET"),
        )
    )
    more = tuple(
        (rng.choice(_NAMES), _header_value(mutated(rng.choice(_HEADER_VALUES), _HEADER_VALUES, rng)))
        for _ in range(rng.choice((1, 1, 2, 5)))
    )
    kept = () if rng.random() < 0.3 else base.headers
    return replace(base, headers=more + kept)


def _header_value(raw: bytes) -> bytes:
    """What an HTTP server lets through: no line ends, no zeros, and a bounded length."""
    return bytes(byte for byte in raw if byte not in b"\r\n\x00")[:4096].strip()


def _paths(rng: Random) -> Request:
    raw = rng.choice(
        (
            "/v2/models/simple/versions/1/config", "/v2/models/simple/ready", "/v2/models/stats", "/v2/health/ready",
            "/v1/models/clean/samples/sample.png", "/v2/models/shades/versions/1/infer", "/metrics", "/", "/v1/models",
            "/page/app.js", "/openapi.json", "/docs", "/livez",
        )
    )  # fmt: skip
    path = raw if rng.random() < 0.2 else mutated(raw.encode(), [b"/v2/models/x/stats"], rng).decode("utf-8", "replace")
    method = rng.choice(("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"))
    return Request("/" + path.lstrip("/"), method=method)


def _file(contents: Sequence[bytes], rng: Random) -> bytes:
    raw = rng.choice(contents)
    if raw.startswith(b"{") and rng.random() < 0.7:
        return mutated_json(raw, rng)
    return mutated(raw, contents, rng)
