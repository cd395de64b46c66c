"""Content negotiation: which of the types that can be made the client likes best (RFC 9110, 12.5.1)."""

from collections.abc import Sequence

from serve.errors import NotAcceptable, quoted

_MAX_RANGES = 64


def acceptable(accept: str, offered: Sequence[str]) -> list[str]:
    """Returns those of ``offered`` that the client accepts, the best first; of equals, in the order of ``offered``.

    Without a header everything is accepted. What is no media range is passed over.

    Raises:
        NotAcceptable: there is none.
    """
    if not accept.strip():
        return list(offered)
    ranges = [_parse(part) for part in accept.split(",")[:_MAX_RANGES]]
    weights = {kind: _weight(kind, [r for r in ranges if r is not None]) for kind in offered}
    liked = sorted((kind for kind in offered if weights[kind] > 0), key=lambda kind: -weights[kind])
    if not liked:
        raise not_acceptable(f"the Accept header is {quoted(accept)}", offered)
    return liked


def not_acceptable(why: str, offered: Sequence[str]) -> NotAcceptable:
    """What to raise when no type will do."""
    return NotAcceptable(
        "not_acceptable", f"{why}, and this route makes {', '.join(offered)}", f"send 'Accept: {offered[0]}', or none"
    )


def _parse(part: str) -> tuple[str, float] | None:
    """The range and its weight, or None if it is no media range."""
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    if "/" not in kind:
        return None
    weight = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            weight = _quality(value.strip())
    return kind, weight


def _quality(text: str) -> float:
    digits = text.replace(".", "", 1)
    return min(1.0, float(text)) if digits.isascii() and digits.isdigit() and len(text) <= 8 else 0.0


def _weight(kind: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight of the most specific range that fits: image/png before image/* before */*."""
    known = dict(reversed(ranges))  # of a range that comes twice, the first
    for fitting in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        if fitting in known:
            return known[fitting]
    return 0.0
