"""Parameters of requests: from the URL, a form's text fields or a JSON body, checked one by one."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Scope

from serve.errors import BadField, nearest, quoted
from serve.web.asgi import header
from serve.web.uploads import kind_of

DEFAULT_QUALITY = 95
VARIANT_HEADER = b"x-skipvit-variant"
_MAX_QUERY_FIELDS = 16


def parse_query(raw: bytes, known: Sequence[str]) -> dict[str, str]:
    """The parameters of a URL; of one that comes twice, the last.

    Raises:
        BadField: there are too many, or one is not ``known``.
    """
    if not raw:
        return {}
    try:
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        raise BadField(
            "bad_query", f"the query has over {_MAX_QUERY_FIELDS} fields", f"send {' and '.join(known)} only"
        ) from None
    for name, _ in pairs:
        if name not in known:
            raise BadField("unknown_field", f"there is no query parameter {quoted(name)}", nearest(name, known))
    return dict(pairs)


def parse_top_k(value: Any, default: int) -> int:
    """The number of predictions asked for: a positive integer, or its digits from a form or query.

    Raises:
        BadField: it is neither.
    """
    if value is None:
        return default
    number = _whole(value)
    if number is None or number < 1:
        raise BadField(
            "bad_field",
            f"top_k is {quoted(str(value))}, a whole number from 1 was needed",
            "leave top_k out for the best 5, or give a number such as top_k=3",
        )
    return number


def parse_quality(value: Any) -> int:
    """The quality of a JPEG or WebP asked for: 1 to 100, or its digits from a form or query.

    Raises:
        BadField: it is neither.
    """
    if value is None:
        return DEFAULT_QUALITY
    number = _whole(value)
    if number is None or not 1 <= number <= 100:
        raise BadField(
            "bad_field",
            f"quality is {quoted(str(value))}, a whole number from 1 to 100 was needed",
            f"leave quality out for {DEFAULT_QUALITY}, or give a number such as quality=80",
        )
    return number


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and len(value) <= 9 and value.isascii() and value.isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def parse_name(field: str, value: Any) -> str | None:
    """The model or variant asked for by name, or None.

    Raises:
        BadField: it is not a string.
    """
    if value is not None and not isinstance(value, str):
        raise BadField("bad_field", f"{field} is a {kind_of(value)}, not a string", "name one of GET /v1/models")
    return value


def parse_variant(scope: Scope, parameters: Mapping[str, Any]) -> str | None:
    """The variant of a group asked for by a header or a parameter, or None.

    Raises:
        BadField: it is not a string, or came as both.
    """
    named, asked = parse_name("variant", parameters.get("variant")), header(scope, VARIANT_HEADER)
    if named is not None and asked:
        raise BadField("bad_field", "variant came as a parameter and as a header", "send it as one of them")
    return asked or named
