"""Inference requests and answers of the Open Inference Protocol as bodies: JSON, with raw tensors behind it or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from serve.errors import BadTensor, TooLarge, quoted
from serve.oip.tensors import Buffer, Tensor, parse_header, parse_name, raw_bytes, read_binary, read_json
from serve.web.uploads import kind_of

MAX_JSON_BYTES = 8 << 20
_MAX_TENSORS = 16
_MAX_ID = 256


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One output asked for: as binary data or JSON, and if ``classes`` is not 0, as that many likeliest classes."""

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request. ``outputs`` is None where all are asked for, as binary data if ``binary``.

    ``timeout_us`` and ``priority`` are Triton's parameters of those names: how long it may wait in microseconds, and
    how soon it is wanted, 1 first. 0 leaves both to the server.
    """

    request_id: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[WantedOutput, ...] | None
    binary: bool
    timeout_us: int = 0
    priority: int = 0


def header_length(text: str, size: int) -> int | None:
    """The Inference-Header-Content-Length of a body of ``size`` bytes, or None where there is none.

    Raises:
        BadTensor: it is no number, or more than the body has.
    """
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or int(text) > size:
        raise _bad(
            f"Inference-Header-Content-Length is {quoted(text)}, the body has {size} bytes",
            "send the number of bytes of the body's JSON",
        )
    return int(text)


def parse_request(raw: bytes, json_size: int | None) -> InferRequest:
    """Reads a body whose first ``json_size`` bytes, or all, are JSON. Numbers of raw tensors are views of ``raw``.

    Raises:
        BadTensor: it is malformed, or contradicts itself.
        TooLarge: its JSON is over MAX_JSON_BYTES.
    """
    view = memoryview(raw)
    document = _document(view[:json_size])
    parameters = _object(document.get("parameters"), "the request's parameters")
    binary = _flag(parameters, "binary_data_output", False)
    inputs = _inputs(document.get("inputs"), view[len(raw) if json_size is None else json_size :])
    return InferRequest(
        _request_id(document.get("id")),
        inputs,
        _outputs(document.get("outputs"), binary),
        binary,
        _whole(parameters, "timeout"),
        _whole(parameters, "priority"),
    )


def _document(view: Buffer) -> dict[str, Any]:
    if len(view) > MAX_JSON_BYTES:
        raise TooLarge(
            "json_too_large",
            f"the request's JSON has {len(view)} bytes, the limit is {MAX_JSON_BYTES}",
            "send large tensors as binary data",
        )
    try:
        document = orjson.loads(view)
    except orjson.JSONDecodeError as error:
        raise _bad(
            f"the request's JSON cannot be read ({error})",
            "where raw tensors follow it, send its length as Inference-Header-Content-Length",
        ) from None
    if not isinstance(document, dict):
        raise _bad(f"the request is a JSON {kind_of(document)}", 'send an object: {"inputs": [...]}')
    return document


def _inputs(documents: Any, rest: Buffer) -> tuple[Tensor, ...]:
    headers = [parse_header(document) for document in _listed(documents, "inputs")]
    if not headers:
        raise _bad("the request has no inputs", 'send {"inputs": [...]}')
    _unique([header.name for header in headers], "inputs")
    claimed = sum(header.binary_size or 0 for header in headers)
    if claimed != len(rest):
        raise _bad(
            f"the inputs claim {claimed} bytes of binary data, {len(rest)} follow the JSON",
            "let binary_data_size, Inference-Header-Content-Length and the body agree",
        )
    tensors: list[Tensor] = []
    at = 0
    for header in headers:
        if header.binary_size is None:
            tensors.append(read_json(header))
        else:
            tensors.append(read_binary(header, rest[at : at + header.binary_size]))
            at += header.binary_size
    return tuple(tensors)


def _outputs(documents: Any, binary: bool) -> tuple[WantedOutput, ...] | None:
    wanted = tuple(_output(document, binary) for document in _listed(documents, "outputs"))
    _unique([output.name for output in wanted], "outputs")
    return wanted or None


def _output(document: Any, binary: bool) -> WantedOutput:
    if not isinstance(document, dict):
        raise _bad(f"an output is a {kind_of(document)}, an object was needed", 'send {"name": ...}')
    name = parse_name(document.get("name"), "an output")
    parameters = _object(document.get("parameters"), f"the parameters of output {quoted(name)}")
    if "shared_memory_region" in parameters:
        raise _bad(
            f"output {quoted(name)} is wanted in shared memory, which this server does not write",
            "leave shared_memory_region out",
        )
    classes = parameters.get("classification", 0)
    if type(classes) is not int or not 0 <= classes < 1 << 31:
        raise _bad(f"classification of output {quoted(name)} is {quoted(str(classes))}", "send a number of classes")
    return WantedOutput(name, _flag(parameters, "binary_data", binary), classes)


def _request_id(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > _MAX_ID):
        came = f"of {len(value)} characters" if isinstance(value, str) else f"a {kind_of(value)}"
        raise _bad(f"the request's id is {came}", f"send a string of at most {_MAX_ID} characters, or none")
    return value or None


def _listed(documents: Any, what: str) -> list[Any]:
    if documents is None:
        return []
    if not isinstance(documents, list) or len(documents) > _MAX_TENSORS:
        came = f"{len(documents)}" if isinstance(documents, list) else f"a {kind_of(documents)}"
        raise _bad(f"the request's {what} are {came}", f"send a list of at most {_MAX_TENSORS}")
    return documents


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise _bad(f"{what} are a {kind_of(value)}", "send an object, or none")
    return value or {}


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _bad(f"{name} is a {kind_of(value)}", "send true or false")
    return value


def _whole(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _bad(f"{name} is {quoted(str(value))}", "send a whole number from 0, or leave it out")
    return value


def _unique(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise _bad(f"{quoted(name)} comes more than once among the {what}", "send each once")


def encode_answer(
    model: str, version: str, request_id: str | None, outputs: Sequence[tuple[Tensor, bool]]
) -> tuple[bytes, int | None]:
    """A response's body, and how many bytes of it are JSON, or None if all are.

    Args:
        outputs: each tensor, and whether it is wanted as binary data.
    """
    described: list[dict[str, Any]] = []
    raw: list[bytes | Buffer] = []
    for tensor, binary in outputs:
        one: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary:
            raw.append(raw_bytes(tensor))
            one["parameters"] = {"binary_data_size": len(raw[-1])}
        elif isinstance(tensor.values, list):
            one["data"] = [text.decode("utf-8", "replace") for text in tensor.values]
        else:
            one["data"] = tensor.values.reshape(-1)
        described.append(one)
    named = {"id": request_id} if request_id else {}
    answer = {**named, "model_name": model, "model_version": version, "outputs": described}
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((head, *raw)), len(head)) if raw else (head, None)


def _bad(message: str, hint: str) -> BadTensor:
    return BadTensor("bad_request", message, hint)
