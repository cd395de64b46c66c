"""Request bodies: a raw picture, multipart/form-data, or JSON with base64, all to the same list of pictures.

The body is in memory and under its cap by now, so parsing is one pass over it without temporary files.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serve.errors import BadField, BadImage, TooLarge, WrongContentType, nearest, quoted

PARAMETERS = ("model", "top_k")
_JSON_KEYS = ("image", "images", *PARAMETERS)
_MAX_FIELD_BYTES = 1024
_MAX_NAME = 255
_HOW_TO_POST = (
    "send the bytes of a picture with 'Content-Type: image/jpeg' (curl -T cat.jpg -H 'Content-Type: image/jpeg' URL), "
    'a form (curl -F image=@cat.jpg URL), or JSON {"image": "<base64>"}'
)


@dataclass(slots=True)
class Picture:
    """An encoded picture and its file's name, if it came with one."""

    name: str | None
    data: bytes


@dataclass(slots=True)
class Upload:
    """What a body held: pictures in order, and parameters that came with them."""

    pictures: list[Picture]
    parameters: dict[str, Any] = field(default_factory=dict)


def parse_upload(content_type: str, body: bytes, max_files: int) -> Upload:
    """Returns the pictures and parameters of a body.

    Raises:
        WrongContentType: it is of a kind that is not read here.
        BadField: a part or key is missing, malformed or unknown.
        BadImage: the whole body is empty.
        TooLarge: it holds more than ``max_files`` pictures.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind in ("", "application/octet-stream"):
        if not body:
            raise BadImage("empty_image", "the body is empty: it has 0 bytes", _HOW_TO_POST)
        return Upload([Picture(None, body)])
    if kind == "multipart/form-data":
        return _parse_form(content_type, body, max_files)
    if kind == "application/json":
        return _parse_json(body, max_files)
    raise WrongContentType("wrong_content_type", f"the body's Content-Type is {quoted(kind)}", _HOW_TO_POST)


# --- multipart/form-data ---


class _Form:
    """Collects the parts of a form as the parser's callbacks meet them."""

    def __init__(self, max_files: int) -> None:
        self.max_files = max_files
        self.pictures: list[Picture] = []
        self.parameters: dict[str, Any] = {}
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value = b"", b""
        self._pieces: list[bytes] = []

    def on_part_begin(self) -> None:
        self._headers, self._pieces = {}, []

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def on_part_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = _text(options.get(b"name", b""))
        file_name = options.get(b"filename")
        data = b"".join(self._pieces)
        if file_name is not None or self._headers.get(b"content-type", b"").startswith(b"image/"):
            self._add_file(_text(file_name or b""), data)
        else:
            self._add_field(name, data)

    def _add_file(self, name: str, data: bytes) -> None:
        if not name and not data:
            return  # what a browser sends for a file input that was left empty
        if len(self.pictures) == self.max_files:
            raise _too_many_files(f"more than {self.max_files}", self.max_files)
        self.pictures.append(Picture(name[:_MAX_NAME] or None, data))

    def _add_field(self, name: str, data: bytes) -> None:
        if name not in PARAMETERS:
            raise BadField(
                "unknown_field",
                f"the form has a text field {quoted(name)} of {len(data)} bytes",
                f"to send a file with curl, write -F {_safe_name(name)}=@FILE, with the @; as for text fields, "
                + nearest(name, PARAMETERS),
            )
        if len(data) > _MAX_FIELD_BYTES:
            raise BadField("bad_field", f"field {name!r} has {len(data)} bytes", f"send {name} as a short text")
        self.parameters[name] = _text(data)


def _parse_form(content_type: str, body: bytes, max_files: int) -> Upload:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise BadField(
            "bad_form",
            "the multipart Content-Type has no boundary",
            "let the HTTP client set the Content-Type of the form itself",
        )
    form = _Form(max_files)
    parser_callbacks: Any = {name: getattr(form, name) for name in dir(form) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, parser_callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadField(
            "bad_form", f"the form cannot be parsed ({error})", "build the form with an HTTP client's own form support"
        ) from None
    if not form.pictures:
        raise BadField("missing_image", "the form holds no file", "add one: curl -F image=@cat.jpg URL")
    return Upload(form.pictures, form.parameters)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _safe_name(name: str) -> str:
    return name if name.isidentifier() and len(name) < 40 else "image"


# --- JSON ---


def _parse_json(body: bytes, max_files: int) -> Upload:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadField(
            "bad_json", f"the body is not JSON ({error})", 'send {"image": "<base64 of the file>"}'
        ) from None
    if not isinstance(document, dict):
        raise BadField("bad_json", f"the body is a JSON {_kind(document)}", 'send an object: {"image": "<base64>"}')
    for key in document:
        if key not in _JSON_KEYS:
            raise BadField("unknown_field", f"the JSON has a key {quoted(key)}", nearest(key, _JSON_KEYS))
    encoded = _encoded_images(document)
    if len(encoded) > max_files:
        raise _too_many_files(str(len(encoded)), max_files)
    pictures = [Picture(None, _from_base64(text, where)) for where, text in encoded]
    return Upload(pictures, {key: document[key] for key in PARAMETERS if document.get(key) is not None})


def _encoded_images(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every base64 text with the name of its place in the document."""
    if ("image" in document) == ("images" in document):
        raise BadField(
            "missing_image",
            "the JSON has both 'image' and 'images'" if "image" in document else "the JSON has no 'image'",
            'send either {"image": "<base64>"} or {"images": ["<base64>", ...]}',
        )
    if "image" in document:
        return [("image", document["image"])]
    images = document["images"]
    if not isinstance(images, list) or not images:
        what = "is empty" if isinstance(images, list) else f"is a {_kind(images)}"
        raise BadField("missing_image", f"'images' {what}", 'send {"images": ["<base64>", ...]}')
    return [(f"images[{i}]", text) for i, text in enumerate(images)]


def _from_base64(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise BadField("bad_base64", f"{where!r} is a {_kind(text)}, not a string", "send the file's bytes in base64")
    if text[:5].lower() == "data:":  # what FileReader.readAsDataURL gives
        text = text.partition(",")[2]
    try:
        # Many encoders wrap their lines, as the base64 program does.
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadField(
            "bad_base64",
            f"{where!r} is not base64 ({error})",
            "encode the file's bytes in standard base64 with padding",
        ) from None


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def _too_many_files(count: str, limit: int) -> TooLarge:
    return TooLarge(
        "too_many_files", f"{count} pictures came in one request, the limit is {limit}", "send them in several requests"
    )


# --- parameters ---


def check_parameter_names(names: Iterable[str]) -> None:
    """Raises BadField for a query parameter that does not exist, with the nearest that does."""
    for name in names:
        if name not in PARAMETERS:
            raise BadField("unknown_field", f"there is no query parameter {quoted(name)}", nearest(name, PARAMETERS))


def parse_top_k(value: Any, default: int) -> int:
    """The number of predictions asked for: a positive integer, or its digits from a form or query.

    Raises:
        BadField: it is neither.
    """
    if value is None:
        return default
    if isinstance(value, str) and len(value) <= 9 and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadField(
            "bad_field",
            f"top_k is {quoted(str(value))}, a whole number from 1 was needed",
            "leave top_k out for the best 5, or give a number such as top_k=3",
        )
    return value


def parse_model(value: Any) -> str | None:
    """The model asked for by name, or None.

    Raises:
        BadField: it is not a string.
    """
    if value is not None and not isinstance(value, str):
        raise BadField("bad_field", f"model is a {_kind(value)}, not a string", "name one of GET /v1/models")
    return value
