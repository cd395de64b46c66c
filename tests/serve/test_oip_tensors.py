"""The protocol's codec against tritonclient's own: what it sends is read, what is sent it reads."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from serve.errors import BadTensor, TooLarge
from serve.oip.messages import MAX_JSON_BYTES, encode_answer, header_length, parse_request
from serve.oip.tensors import BYTES, TYPES, Tensor

_SHAPES = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from([*TYPES, BYTES]))
    shape = draw(_SHAPES)
    if datatype == BYTES:
        count = int(np.prod(shape))
        return Tensor("x", BYTES, shape, draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count)))
    dtype = TYPES[datatype]
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    elements = npst.from_dtype(dtype, **finite)
    return Tensor("x", datatype, shape, draw(npst.arrays(dtype, shape, elements=elements)))


def as_numpy(tensor: Tensor) -> Any:
    if isinstance(tensor.values, list):
        made = np.empty(len(tensor.values), object)
        made[:] = tensor.values
        return made.reshape(tensor.shape)
    return tensor.values


def equal(one: Tensor, other: Tensor) -> bool:
    same = (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
    if isinstance(one.values, list):
        return same and one.values == other.values
    return same and np.array_equal(one.values, other.values) and one.values.dtype == np.asarray(other.values).dtype


@settings(max_examples=300, deadline=None)
@given(st.lists(tensors(), min_size=1, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_what_tritonclient_sends_is_read(drawn: list[Tensor], binary: list[bool]) -> None:
    named = [Tensor(f"in{i}", t.datatype, t.shape, t.values) for i, t in enumerate(drawn)]
    inputs = []
    for tensor, raw in zip(named, binary, strict=False):
        raw = raw or tensor.datatype == BYTES  # any bytes are no JSON
        inputs.append(triton.InferInput(tensor.name, list(tensor.shape), tensor.datatype))
        inputs[-1].set_data_from_numpy(as_numpy(tensor), binary_data=raw)
    wanted = [triton.InferRequestedOutput("y", binary_data=False, class_count=3)]
    body, size = triton.InferenceServerClient.generate_request_body(inputs, wanted, request_id="an id")
    request = parse_request(body, header_length("" if size is None else str(size), len(body)))
    assert request.request_id == "an id"
    assert all(equal(*pair) for pair in zip(request.inputs, named, strict=True))
    [output] = request.outputs or ()
    assert (output.name, output.binary, output.classes) == ("y", False, 3)


def test_binary_is_the_default_where_tritonclient_asks_for_it() -> None:
    one = triton.InferInput("x", [1], "UINT8")
    one.set_data_from_numpy(np.zeros(1, np.uint8), binary_data=False)
    body, size = triton.InferenceServerClient.generate_request_body([one])
    assert (size, parse_request(body, None).binary, parse_request(body, None).outputs) == (None, True, None)


@settings(max_examples=300, deadline=None)
@given(tensors(), st.booleans())
def test_tritonclient_reads_what_is_sent(tensor: Tensor, binary: bool) -> None:
    binary = binary or tensor.datatype == BYTES
    body, size = encode_answer("m", "1", None, [(tensor, binary)])
    result = triton.InferenceServerClient.parse_response_body(body, header_length=size)
    back = result.as_numpy("x")
    assert back.shape == tensor.shape
    assert np.array_equal(back, as_numpy(tensor))
    assert "id" not in result.get_response()


def test_numbers_are_not_copied() -> None:
    raw = json.dumps({"inputs": [{**UINT8, "parameters": {"binary_data_size": 6}}]}).encode()
    body = raw + bytes(range(6))
    [tensor] = parse_request(body, len(raw)).inputs
    assert not isinstance(tensor.values, list)
    assert tensor.values.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not tensor.values.flags.owndata
    assert not tensor.values.flags.writeable


UINT8 = {"name": "x", "shape": [2, 3], "datatype": "UINT8"}
_SIX = [0, 1, 2, 3, 4, 255]


def test_data_may_be_nested_or_flat() -> None:
    for data in (_SIX, [_SIX[:3], _SIX[3:]]):
        [tensor] = parse_request(json.dumps({"inputs": [{**UINT8, "data": data}]}).encode(), None).inputs
        assert np.asarray(tensor.values).tolist() == [_SIX[:3], _SIX[3:]]


BAD_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"data": _SIX[:5]}, "does not have the shape"),
    ({"data": [_SIX]}, "does not have the shape"),
    ({"data": [_SIX[:3], 7]}, "does not have the shape"),
    ({"data": [[[1]] * 3] * 2}, "a list in it"),
    ({"data": [*_SIX[:5], 256]}, "cannot hold"),
    ({"data": [*_SIX[:5], -1]}, "cannot hold"),
    ({"data": [*_SIX[:5], 10**300]}, "number in it"),
    ({"data": [*_SIX[:5], 1.5]}, "a number in it"),
    ({"data": [*_SIX[:5], True]}, "a boolean in it"),
    ({"data": [*_SIX[:5], None]}, "a null in it"),
    ({"data": [*_SIX[:5], "6"]}, "a string in it"),
    ({"data": "abcdef"}, "is a string"),
    ({"datatype": "FP16", "data": [*_SIX[:5], 1e6]}, "cannot hold"),
    ({"datatype": "FP32", "data": [*_SIX[:5], 1e39]}, "cannot hold"),
    ({"datatype": "BOOL", "data": _SIX}, "true or false"),
    ({"datatype": "BYTES", "data": _SIX}, "send strings"),
    ({"datatype": "BYTES", "shape": [5000], "data": []}, "the limit is 4096"),
    ({"datatype": "FP8", "data": _SIX}, "datatype 'FP8'"),
    ({"datatype": None, "data": _SIX}, "datatype 'None'"),
    ({"shape": [-2, -3], "data": _SIX}, "the size '-2'"),
    ({"shape": [2, 3.0], "data": _SIX}, "the size '3.0'"),
    ({"shape": [True, 6], "data": _SIX}, "the size 'True'"),
    ({"shape": [], "data": _SIX}, "0 axes"),
    ({"shape": [1] * 9, "data": _SIX}, "9 axes"),
    ({"shape": 6, "data": _SIX}, "is a number"),
    ({"shape": [2**62, 2**62], "data": _SIX}, "more elements than a body holds"),
    ({"shape": [0, 2**63], "data": _SIX}, "more elements than a body holds"),
    ({"name": "", "data": _SIX}, "the name of an input"),
    ({"name": 3, "data": _SIX}, "the name of an input is a number"),
    ({}, "neither data nor"),
    ({"data": _SIX, "parameters": {"binary_data_size": 6}}, "both data and"),
    ({"parameters": {"binary_data_size": -1}}, "a number of bytes from 0"),
    ({"parameters": {"binary_data_size": "6"}}, "a number of bytes from 0"),
    ({"parameters": {"binary_data_size": 5}}, "claim 5 bytes"),
    ({"parameters": [1]}, "parameters of input 'x' are a list"),
    ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
]


@pytest.mark.parametrize(("changes", "said"), BAD_INPUTS, ids=[said for _, said in BAD_INPUTS])
def test_inputs_that_contradict_themselves(changes: dict[str, Any], said: str) -> None:
    body = json.dumps({"inputs": [{**UINT8, **changes}]}).encode()
    with pytest.raises(BadTensor) as caught:
        parse_request(body, None)
    assert said in f"{caught.value.message}; {caught.value.hint}"


GOOD = {**UINT8, "data": _SIX}
BAD_REQUESTS: list[tuple[Any, str]] = [
    ([], "is a JSON list"),
    ({}, "no inputs"),
    ({"inputs": {}}, "inputs are a object"),
    ({"inputs": [3]}, "an input is a number"),
    ({"inputs": [GOOD] * 17}, "inputs are 17"),
    ({"inputs": [GOOD, GOOD]}, "'x' comes more than once among the inputs"),
    ({"inputs": [GOOD], "outputs": [{"name": "y"}, {"name": "y"}]}, "'y' comes more than once among the outputs"),
    ({"inputs": [GOOD], "outputs": ["y"]}, "an output is a string"),
    ({"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, "number of classes"),
    ({"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": "3"}}]}, "number of classes"),
    ({"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "binary_data is a number"),
    ({"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]}, "shared memory"),
    ({"inputs": [GOOD], "parameters": {"binary_data_output": "yes"}}, "binary_data_output is a string"),
    ({"inputs": [GOOD], "parameters": 5}, "parameters are a number"),
    ({"inputs": [GOOD], "id": 5}, "id is a number"),
    ({"inputs": [GOOD], "id": "x" * 257}, "257 characters"),
]


@pytest.mark.parametrize(("document", "said"), BAD_REQUESTS, ids=[said for _, said in BAD_REQUESTS])
def test_requests_that_make_no_sense(document: Any, said: str) -> None:
    with pytest.raises(BadTensor) as caught:
        parse_request(json.dumps(document).encode(), None)
    assert said in f"{caught.value.message}; {caught.value.hint}"


def test_nan_and_too_much_json_are_refused() -> None:
    for text in (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}', b"\xff", b"[" * 5000):
        with pytest.raises(BadTensor):
            parse_request(text, None)
    with pytest.raises(TooLarge):
        parse_request(b" " * (MAX_JSON_BYTES + 1), None)


def test_header_lengths_that_lie() -> None:
    assert header_length("", 9) is None
    assert header_length(" 9 ", 9) == 9
    for text in ("10", "-1", "1.0", "nine", "٣", "9" * 30):
        with pytest.raises(BadTensor):
            header_length(text, 9)


@pytest.mark.parametrize("raw", [b"", b"\1\0\0", b"\2\0\0\0a", b"\xff\xff\xff\xffa", b"\1\0\0\0ab"])
def test_strings_that_end_elsewhere(raw: bytes) -> None:
    head = {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [head]}).encode()
    with pytest.raises(BadTensor):
        parse_request(text + raw, len(text))


_BODY, _SIZE = triton.InferenceServerClient.generate_request_body(
    [triton.InferInput("x", [2, 3], "UINT8").set_data_from_numpy(np.zeros((2, 3), np.uint8))]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "shape", "data"]), inner),
    max_leaves=8,
)


@settings(max_examples=1000, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), _JSON),
    st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), _JSON),
    st.binary(max_size=8),
)
def test_any_other_values_are_refused_or_read(changes: dict[str, Any], more: dict[str, Any], tail: bytes) -> None:
    head = json.dumps({**more, "inputs": [{**GOOD, **changes}]}).encode()
    with suppress(BadTensor, TooLarge):
        parse_request(head + tail, len(head))


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(_BODY) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 300))
def test_damaged_bodies_are_refused_or_read(changes: list[tuple[int, int]], size: int) -> None:
    body = bytearray(_BODY)
    for at, value in changes:
        body[at] = value
    with suppress(BadTensor, TooLarge):
        parse_request(bytes(body), header_length(str(size if size <= len(body) else _SIZE), len(body)))
