"""A reader of protobuf's text format, in which Triton's config.pbtxt is written, without its schema.

Google's reader needs the schema compiled in, and passes over nothing or everything that it does not know. This one
gives a tree; serve.foreign.config asks it for each field that it understands, and refuses what is left.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

_MAX_DEPTH = 16
_TOKEN = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+)
    | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<word>[-+]?[A-Za-z0-9_.][A-Za-z0-9_.+-]*|-)
    | (?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_INTEGERS = {r"-?(0|[1-9][0-9]{0,18})": 10, r"-?0[0-7]{1,22}": 8, r"-?0[xX][0-9a-fA-F]{1,16}": 16}
_CLOSING = {"{": "}", "<": ">"}


class TextFormatError(ValueError):
    """The text is not protobuf's text format, or not of the schema; the message names the line or field."""


@dataclass(frozen=True, slots=True)
class Word:
    """A number, or the name of an enum's value, as it was written."""

    text: str


@dataclass(slots=True)
class Message:
    """Fields by name, each with its values in their order; ``path`` is where it lies in the document."""

    path: str
    fields: dict[str, list["Value"]] = field(default_factory=dict)
    from_json: bool = False
    """Whether its strings may be numbers and names, too: JSON has neither large numbers nor enums."""

    def strings(self, name: str) -> list[str]:
        """Takes a field of strings. Raises TextFormatError if it is of something else."""
        return [self._of(name, value, str, "a string in quotes") for value in self.fields.pop(name, [])]

    def words(self, name: str) -> list[str]:
        """Takes a field of numbers, enums or flags, as text."""
        values = self.fields.pop(name, [])
        if self.from_json:
            values = [Word(value) if isinstance(value, str) else value for value in values]
        return [self._of(name, value, Word, "a number or a name").text for value in values]

    def messages(self, name: str) -> list["Message"]:
        """Takes a field of messages."""
        return [self._of(name, value, Message, "a block in braces") for value in self.fields.pop(name, [])]

    def integers(self, name: str) -> list[int]:
        """Takes a field of whole numbers, of which each fits 64 bits."""
        return [self._integer(name, text) for text in self.words(name)]

    def string(self, name: str, default: str = "") -> str:
        """Takes a field that comes at most once."""
        return self._last(name, self.strings(name), default)

    def word(self, name: str, default: str = "") -> str:
        """Takes a field that comes at most once."""
        return self._last(name, self.words(name), default)

    def integer(self, name: str, default: int = 0) -> int:
        """Takes a field that comes at most once."""
        return self._last(name, self.integers(name), default)

    def flag(self, name: str) -> bool:
        """Takes a field that is true or false, and false where it is missing."""
        text = self.word(name, "false")
        if text not in ("true", "True", "t", "1", "false", "False", "f", "0"):
            raise TextFormatError(f"{self.at(name)} is {text[:40]!r}, true or false was needed")
        return text in ("true", "True", "t", "1")

    def message(self, name: str) -> "Message | None":
        """Takes a field that comes at most once."""
        return self._last(name, list[Message | None](self.messages(name)), None)

    def ignore(self, *names: str) -> list[str]:
        """Takes fields without a look at them; returns those that came."""
        return [name for name in names if self.fields.pop(name, None) is not None]

    def done(self) -> None:
        """Raises TextFormatError if a field is left that nobody took."""
        for name in self.fields:
            raise TextFormatError(f"{self.at(name)} is not understood by this server")

    def at(self, name: str) -> str:
        """The field's full name."""
        return f"{self.path}.{name}" if self.path else name

    def _of(self, name: str, value: object, kind: type[T], wanted: str) -> T:
        if not isinstance(value, kind):
            raise TextFormatError(f"{self.at(name)} is not {wanted}")
        return value

    def _integer(self, name: str, text: str) -> int:
        for form, base in _INTEGERS.items():
            if re.fullmatch(form, text) and abs(value := int(text, base)) < 1 << 63:
                return value
        raise TextFormatError(f"{self.at(name)} is {text[:40]!r}, a whole number was needed")

    def _last(self, name: str, values: list[T], default: T) -> T:
        if len(values) > 1:
            raise TextFormatError(f"{self.at(name)} comes {len(values)} times, once was needed")
        return values[0] if values else default


Value = str | Word | Message


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def parse_text_format(text: str) -> Message:
    """The document as a tree. Raises TextFormatError, which names the line, if it is none."""
    tokens = _Tokens(text)
    document = Message("")
    _read_fields(tokens, document, "", 0)
    return document


def message_of(document: object, path: str = "", depth: int = 0) -> Message:
    """A message as protobuf has it in JSON. Raises TextFormatError if it is none."""
    if not isinstance(document, dict) or depth > _MAX_DEPTH:
        raise TextFormatError(f"{path or 'the document'} is not an object, or too deep")
    message = Message(path, from_json=True)
    for name, value in document.items():
        listed = value if isinstance(value, list) else [value]
        message.fields[name] = [_json_value(one, message.at(name), depth) for one in listed if one is not None]
    return message


def _json_value(value: object, path: str, depth: int) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return Word(str(value).lower())
    if isinstance(value, int | float):
        return Word(repr(value))
    return message_of(value, path, depth + 1)


class _Tokens:
    """The tokens of a text, with one of them in view."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokenized(text)
        self.now = next(self._tokens)

    def take(self) -> _Token:
        token, self.now = self.now, next(self._tokens, self.now)
        return token

    def take_mark(self, *marks: str) -> str:
        """Takes one of these marks if it is next; returns it, or nothing."""
        if self.now.kind == "mark" and self.now.text in marks:
            return self.take().text
        return ""

    def fail(self, wanted: str) -> TextFormatError:
        came = self.now.text[:40]
        return TextFormatError(f"line {self.now.line} has {came!r} where {wanted} was needed")


def _tokenized(text: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise TextFormatError(f"line {line} has {text[at : at + 20]!r}, which cannot be read")
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match[0], line)
        line += match[0].count("\n")
        at = match.end()
    yield _Token("end", "the end", line)


def _read_fields(tokens: _Tokens, message: Message, closing: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise TextFormatError(f"line {tokens.now.line} has more than {_MAX_DEPTH} blocks inside one another")
    while not (tokens.take_mark(closing) if closing else tokens.now.kind == "end"):
        if tokens.now.kind != "word":
            raise tokens.fail("the name of a field")
        name = tokens.take().text
        colon = tokens.take_mark(":")
        values = message.fields.setdefault(name, [])
        if tokens.take_mark("["):
            _read_list(tokens, message.at(name), values, depth)
        else:
            values.append(_read_value(tokens, message.at(name), depth, colon))
        tokens.take_mark(",", ";")


def _read_list(tokens: _Tokens, path: str, values: list[Value], depth: int) -> None:
    if tokens.take_mark("]"):
        return
    while True:
        values.append(_read_value(tokens, path, depth, ":"))
        if tokens.take_mark("]"):
            return
        if not tokens.take_mark(","):
            raise tokens.fail("',' or ']'")


def _read_value(tokens: _Tokens, path: str, depth: int, colon: str) -> Value:
    if opening := tokens.take_mark("{", "<"):
        inner = Message(path)
        _read_fields(tokens, inner, _CLOSING[opening], depth + 1)
        return inner
    if not colon or tokens.now.kind not in ("word", "string"):
        raise tokens.fail("a value" if colon else f"':' after {path}")
    if tokens.now.kind == "word":
        return Word(tokens.take().text)
    line, raw = tokens.now.line, b""
    while tokens.now.kind == "string":  # strings beside each other are one
        raw += _ESCAPE.sub(_unescaped, tokens.take().text[1:-1].encode())
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise TextFormatError(f"line {line} has a string that is not UTF-8") from None


def _unescaped(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, letter = match.groups()
    if letter is not None:
        return _ESCAPED.get(letter, letter)
    return bytes([(int(octal, 8) if octal else int(hexadecimal, 16)) & 0xFF])
