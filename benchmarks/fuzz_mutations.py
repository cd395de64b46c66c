"""Mutations of sound inputs: bytes turned, cut, doubled and spliced, numbers made extreme, JSON grown wrong values."""

import json
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

_TOKENS = (
    b"", b"0", b"-1", b"1e309", b"9" * 40, b"NaN", b"Infinity", b"null", b"true", b'"', b"[" * 64, b"{" * 64, b"\x00",
    b"%00", b"%", b"\r\n\r\n", b"\n", b"\\u0000", b"\\ud800", "é\u202e".encode(), b"\xff\xfe", b"../..", b"=", b"&",
    b";", b"--", b"chunked", b"4294967296", b"18446744073709551616", b"0x10", b"1_0", b"\xf0\x9f\x92\xa9",
)  # fmt: skip
_INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**70, 1.5, -0.0, 1e308, "", "x", "\x00", "\ud7ff", "9" * 300,
    [], {}, [[]], [[[[[[[[[]]]]]]]]], {"": {}}, "BYTES", "FP32", "UINT8", [0], [-1], [2**40], [1] * 20,
)  # fmt: skip


def mutated(raw: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """``raw`` with one to four things changed; sometimes nothing is left of it."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(_BYTE_MUTATIONS)(data, others, rng)
    return bytes(data)


def mutated_json(raw: bytes, rng: Random) -> bytes:
    """A JSON document with one to three of its values replaced, removed or doubled."""
    document = json.loads(raw)
    for _ in range(rng.choice((1, 1, 2, 3))):
        document = _mutated_value(document, rng)
    return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _mutated_value(document: Any, rng: Random) -> Any:
    parents = list(_containers(document))
    if not parents or rng.random() < 0.02:
        return deepcopy(rng.choice(_VALUES))
    parent = rng.choice(parents)
    key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    match rng.randrange(4):
        case 0 if isinstance(parent, list):
            parent.insert(key, deepcopy(parent[key]))
        case 1:
            del parent[key]
        case 2 if isinstance(parent, dict):
            parent[rng.choice(("x", "", "data", "parameters", "shape", "é"))] = parent.pop(key)
        case _:
            parent[key] = deepcopy(rng.choice(_VALUES))  # which the next change may change
    return document


def _containers(value: Any) -> Any:
    if isinstance(value, dict | list) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value[:50]:
            yield from _containers(inner)


def _turn_bit(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_byte(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))


def _set_integer(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    size = rng.choice((2, 4, 8))
    if len(data) >= size:
        at = rng.randrange(len(data) - size + 1)
        value = rng.choice(_INTEGERS) & ((1 << 8 * size) - 1)
        data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _cut(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _remove(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    at, size = _span(data, rng)
    del data[at : at + size]


def _double(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    at, size = _span(data, rng)
    data[at:at] = data[at : at + size] * rng.choice((1, 1, 2, 16))


def _insert(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(_TOKENS) if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 9))


def _replace_token(data: bytearray, _: Sequence[bytes], rng: Random) -> None:
    at, size = _span(data, rng)
    data[at : at + size] = rng.choice(_TOKENS)


def _splice(data: bytearray, others: Sequence[bytes], rng: Random) -> None:
    other = rng.choice(others) if others else b""
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def _span(data: bytearray, rng: Random) -> tuple[int, int]:
    return rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 64, 512))


_BYTE_MUTATIONS = (
    _turn_bit, _turn_bit, _set_byte, _set_integer, _cut, _remove, _double, _insert, _insert, _replace_token, _splice,
)  # fmt: skip
