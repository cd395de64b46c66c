"""Request bodies: a raw picture, multipart/form-data, or JSON with base64, all to the same list of pictures.

The body is in memory and under its cap by now, so parsing is one pass over it without temporary files. What a route
takes of these is its ``Wanted``.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serve.errors import BadField, BadImage, RequestError, TooLarge, WrongContentType, nearest, quoted

_MAX_FIELD_BYTES = 1024
_MAX_NAME = 255
_MAX_EMPTY_FILES = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a route takes: its parameters, how many files, and whether they are pictures or videos.

    A route for one file takes no list of them. Videos come raw or in a form: base64 would be a third larger.
    """

    parameters: tuple[str, ...]
    max_files: int
    medium: Literal["image", "video"] = "image"

    @property
    def json_keys(self) -> tuple[str, ...]:
        """Keys of a JSON body."""
        return ("image", *(("images",) if self.max_files > 1 else ()), *self.parameters)

    @property
    def how_to_send(self) -> str:
        """A hint with an example of every kind of body."""
        if self.medium == "video":
            return (
                "send the bytes of a video with 'Content-Type: video/mp4' "
                "(curl -T clip.mp4 -H 'Content-Type: video/mp4' URL), or a form (curl -F video=@clip.mp4 URL)"
            )
        return (
            "send the bytes of a picture with 'Content-Type: image/jpeg' "
            "(curl -T cat.jpg -H 'Content-Type: image/jpeg' URL), a form (curl -F image=@cat.jpg URL), "
            'or JSON {"image": "<base64>"}'
        )

    def too_many(self, count: str) -> RequestError:
        """What to raise at ``count`` files."""
        if self.max_files == 1:
            return BadField("one_file", f"{count} files came, this route takes one", "send each in its own request")
        return TooLarge(
            "too_many_files",
            f"{count} pictures came in one request, the limit is {self.max_files}",
            "send them in several requests",
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


def parse_upload(content_type: str, body: bytes, wanted: Wanted) -> Upload:
    """Returns the pictures, or the video, and the parameters of a body.

    Raises:
        WrongContentType: it is of a kind that is not read here.
        BadField: a part or key is missing, malformed or unknown, or a second file came where one is taken.
        BadImage: the whole body is empty.
        TooLarge: it holds more than ``wanted.max_files`` pictures.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith(f"{wanted.medium}/") or kind in ("", "application/octet-stream"):
        if not body:
            raise BadImage(f"empty_{wanted.medium}", "the body is empty: it has 0 bytes", wanted.how_to_send)
        return Upload([Picture(None, body)])
    if kind == "multipart/form-data":
        return _parse_form(content_type, body, wanted)
    if kind == "application/json" and wanted.medium == "image":
        return _parse_json(body, wanted)
    raise WrongContentType("wrong_content_type", f"the body's Content-Type is {quoted(kind)}", wanted.how_to_send)


# --- multipart/form-data ---


class _Form:
    """Collects the parts of a form as the parser's callbacks meet them."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.pictures: list[Picture] = []
        self.parameters: dict[str, Any] = {}
        self._empty_files = 0
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
        if file_name is not None or self._is_medium():
            self._add_file(_text(file_name or b""), data)
        else:
            self._add_field(name, data)

    def _is_medium(self) -> bool:
        return self._headers.get(b"content-type", b"").startswith(f"{self.wanted.medium}/".encode())

    def _add_file(self, name: str, data: bytes) -> None:
        if not name and not data:  # what a browser sends for a file input that was left empty
            self._empty_files += 1
            if self._empty_files > _MAX_EMPTY_FILES:
                raise self.wanted.too_many(f"more than {_MAX_EMPTY_FILES} empty")
            return
        if len(self.pictures) == self.wanted.max_files:
            raise self.wanted.too_many(f"more than {self.wanted.max_files}")
        self.pictures.append(Picture(name[:_MAX_NAME] or None, data))

    def _add_field(self, name: str, data: bytes) -> None:
        if name not in self.wanted.parameters:
            raise BadField(
                "unknown_field",
                f"the form has a text field {quoted(name)} of {len(data)} bytes",
                f"to send a file with curl, write -F {_safe_name(name)}=@FILE, with the @; as for text fields, "
                + nearest(name, self.wanted.parameters),
            )
        if len(data) > _MAX_FIELD_BYTES:
            raise BadField("bad_field", f"field {name!r} has {len(data)} bytes", f"send {name} as a short text")
        if name in self.parameters:
            raise BadField("bad_field", f"field {name!r} came twice", f"send {name} once")
        self.parameters[name] = _text(data)


def _parse_form(content_type: str, body: bytes, wanted: Wanted) -> Upload:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise BadField(
            "bad_form",
            "the multipart Content-Type has no boundary",
            "let the HTTP client set the Content-Type of the form itself",
        )
    form = _Form(wanted)
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
        raise BadField(f"missing_{wanted.medium}", "the form holds no file", wanted.how_to_send)
    return Upload(form.pictures, form.parameters)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _safe_name(name: str) -> str:
    return name if name.isidentifier() and len(name) < 40 else "image"


# --- JSON ---


def _parse_json(body: bytes, wanted: Wanted) -> Upload:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadField(
            "bad_json", f"the body is not JSON ({error})", 'send {"image": "<base64 of the file>"}'
        ) from None
    if not isinstance(document, dict):
        raise BadField("bad_json", f"the body is a JSON {kind_of(document)}", 'send an object: {"image": "<base64>"}')
    for key in document:
        if key not in wanted.json_keys:
            raise BadField("unknown_field", f"the JSON has a key {quoted(key)}", nearest(key, wanted.json_keys))
    encoded = _encoded_images(document, wanted)
    if len(encoded) > wanted.max_files:
        raise wanted.too_many(str(len(encoded)))
    pictures = [Picture(None, _from_base64(text, where)) for where, text in encoded]
    return Upload(pictures, {key: document[key] for key in wanted.parameters if document.get(key) is not None})


def _encoded_images(document: dict[str, Any], wanted: Wanted) -> list[tuple[str, Any]]:
    """Every base64 text with the name of its place in the document."""
    if ("image" in document) == ("images" in document):
        raise BadField(
            "missing_image",
            "the JSON has both 'image' and 'images'" if "image" in document else "the JSON has no 'image'",
            'send either {"image": "<base64>"} or {"images": ["<base64>", ...]}'
            if wanted.max_files > 1
            else 'send {"image": "<base64>"}',
        )
    if "image" in document:
        return [("image", document["image"])]
    images = document["images"]
    if not isinstance(images, list) or not images:
        what = "is empty" if isinstance(images, list) else f"is a {kind_of(images)}"
        raise BadField("missing_image", f"'images' {what}", 'send {"images": ["<base64>", ...]}')
    return [(f"images[{i}]", text) for i, text in enumerate(images)]


def _from_base64(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise BadField("bad_base64", f"{where!r} is a {kind_of(text)}, not a string", "send the file's bytes in base64")
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


def kind_of(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")
