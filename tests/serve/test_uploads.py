"""Bodies of all three kinds, and what is said about broken ones."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import BadField, BadImage, RequestError, TooLarge, WrongContentType
from serve.web.parameters import parse_name, parse_quality, parse_query, parse_top_k
from serve.web.uploads import Wanted, parse_upload


def wanted(max_files: int) -> Wanted:
    return Wanted(("model", "top_k"), max_files)


def form(*parts: tuple[str, bytes], boundary: str = "b") -> bytes:
    lines = [f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


def file_part(name: str, data: bytes, field: str = "file") -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{field}"; filename="{name}"', data


def field_part(field: str, value: str) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{field}"', value.encode()


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG; x=y", "application/octet-stream", "", "image/whatever"])
def test_raw_bodies(kind: str) -> None:
    upload = parse_upload(kind, b"bytes", wanted(4))
    assert [(p.name, p.data) for p in upload.pictures] == [(None, b"bytes")]


def test_forms_keep_order_names_and_parameters() -> None:
    body = form(
        file_part("a.png", b"A", "anything"),
        field_part("top_k", "3"),
        file_part("späti.png", b"\r\n--not the boundary\r\n", "other"),
        field_part("model", "shades"),
    )
    upload = parse_upload(FORM, body, wanted(4))
    assert [(p.name, p.data) for p in upload.pictures] == [
        ("a.png", b"A"),
        ("späti.png", b"\r\n--not the boundary\r\n"),
    ]
    assert upload.parameters == {"top_k": "3", "model": "shades"}


def test_a_part_of_type_image_needs_no_file_name() -> None:
    body = form(('Content-Disposition: form-data; name="x"\r\nContent-Type: image/png', b"A"))
    assert parse_upload(FORM, body, wanted(1)).pictures[0].data == b"A"


def test_json_bodies() -> None:
    encoded = base64.b64encode(b"A").decode()
    upload = parse_upload("application/json", f'{{"image": "{encoded}", "top_k": 2}}'.encode(), wanted(4))
    assert [p.data for p in upload.pictures] == [b"A"]
    assert upload.parameters == {"top_k": 2}
    upload = parse_upload(
        "application/json", f'{{"images": ["{encoded}", "data:x;base64,{encoded}"]}}'.encode(), wanted(4)
    )
    assert [p.data for p in upload.pictures] == [b"A", b"A"]
    # as `base64 file` and Python's encodebytes write it: in lines, with one at the end
    wrapped = base64.encodebytes(bytes(range(200))).decode()
    upload = parse_upload(
        "application/json", json.dumps({"images": [wrapped, f"DATA:;base64,{wrapped}"]}).encode(), wanted(4)
    )
    assert [p.data for p in upload.pictures] == [bytes(range(200))] * 2


@pytest.mark.parametrize(
    ("kind", "body", "error", "message"),
    [
        ("image/png", b"", BadImage, "the body is empty"),
        ("text/plain", b"x", WrongContentType, "Content-Type is 'text/plain'"),
        ("application/x-www-form-urlencoded", b"x", WrongContentType, "x-www-form-urlencoded"),
        ("multipart/form-data", b"x", BadField, "has no boundary"),
        ("multipart/form-data; boundary=" + "b" * 300, b"x", BadField, "cannot be parsed"),
        (FORM, b"not a form", BadField, "cannot be parsed"),
        (FORM, b"", BadField, "holds no file"),
        (FORM, b"--b--\r\n", BadField, "holds no file"),
        (FORM, form(file_part("", b"")), BadField, "holds no file"),
        (FORM, form(field_part("image", "cat.jpg")), BadField, "text field 'image' of 7 bytes"),
        (FORM, form(field_part("top_k", "3" * 2000)), BadField, "field 'top_k' has 2000 bytes"),
        (FORM, form(*[field_part("top_k", "3")] * 2, file_part("a", b"A")), BadField, "'top_k' came twice"),
        (FORM, form(*[file_part("", b"")] * 65, file_part("a", b"A")), TooLarge, "more than 64 empty pictures came"),
        (FORM, form(*[file_part("a", b"A")] * 3), TooLarge, "more than 2 pictures came"),
        ("application/json", b"{", BadField, "not JSON"),
        ("application/json", b"[]", BadField, "a JSON list"),
        ("application/json", b"{}", BadField, "no 'image'"),
        ("application/json", b'{"image": "QQ==", "images": ["QQ=="]}', BadField, "both"),
        ("application/json", b'{"imaeg": "QQ=="}', BadField, "key 'imaeg'"),
        ("application/json", b'{"image": 5}', BadField, "'image' is a number, not a string"),
        ("application/json", b'{"image": "QQ"}', BadField, "'image' is not base64"),
        ("application/json", b'{"image": "Q-Q="}', BadField, "'image' is not base64"),
        ("application/json", '{"image": "ä"}'.encode(), BadField, "'image' is not base64"),
        ("application/json", b'{"images": []}', BadField, "'images' is empty"),
        ("application/json", b'{"images": "QQ=="}', BadField, "'images' is a string"),
        ("application/json", b'{"images": ["QQ==", null]}', BadField, r"'images\[1\]' is a null"),
        ("application/json", b'{"images": ["", "", ""]}', TooLarge, "3 pictures came in one request, the limit is 2"),
        ("application/json", b"[" * 100_000, BadField, "not JSON"),
    ],
)
def test_broken_bodies(kind: str, body: bytes, error: type[RequestError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_upload(kind, body, wanted(2))
    assert caught.value.hint


def test_a_forgotten_at_sign_is_explained() -> None:
    with pytest.raises(BadField) as caught:
        parse_upload(FORM, form(field_part("image", "cat.jpg")), wanted(1))
    assert "-F image=@FILE, with the @" in caught.value.hint


def test_a_typo_gets_the_nearest_name() -> None:
    with pytest.raises(BadField) as caught:
        parse_query(b"topk=3", ("model", "top_k"))
    assert "did you mean 'top_k'?" in caught.value.hint


@pytest.mark.parametrize(("value", "expected"), [(None, 5), ("1", 1), (7, 7), ("999999999", 999_999_999)])
def test_top_k(value: object, expected: int) -> None:
    assert parse_top_k(value, 5) == expected


@pytest.mark.parametrize("value", ["", "0", "-1", "x", "1.5", "\uff11", "9" * 400, 0, -3, 1.5, True, [], {}])
def test_top_k_that_makes_no_sense(value: object) -> None:
    with pytest.raises(BadField, match="a whole number from 1 was needed") as caught:
        parse_top_k(value, 5)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(("value", "expected"), [(None, 95), ("1", 1), (100, 100), ("80", 80)])
def test_quality(value: object, expected: int) -> None:
    assert parse_quality(value) == expected


@pytest.mark.parametrize("value", ["", "0", "101", "x", "8e1", "-5", 0, 101, True, 80.0, []])
def test_quality_that_makes_no_sense(value: object) -> None:
    with pytest.raises(BadField, match="a whole number from 1 to 100 was needed"):
        parse_quality(value)


def test_a_query_is_parsed_or_refused() -> None:
    assert parse_query(b"", ("a",)) == {}
    assert parse_query(b"a=1&a=2&b=", ("a", "b")) == {"a": "2", "b": ""}
    with pytest.raises(BadField, match="over 16 fields"):
        parse_query(b"a=1&" * 20, ("a",))


ONE_PICTURE = Wanted(("model", "quality"), 1)
ONE_VIDEO = Wanted(("model", "sigma"), 1, "video")


@pytest.mark.parametrize(
    ("kind", "body", "takes", "error", "message"),
    [
        (FORM, form(file_part("a", b"A"), file_part("b", b"B")), ONE_PICTURE, BadField, "more than 1 files came"),
        ("application/json", b'{"images": ["QQ=="]}', ONE_PICTURE, BadField, "key 'images'"),
        ("application/json", b"{}", ONE_PICTURE, BadField, "the JSON has no 'image'"),
        ("application/json", b'{"image": "QQ==", "top_k": 1}', ONE_PICTURE, BadField, "key 'top_k'"),
        ("video/mp4", b"A", ONE_PICTURE, WrongContentType, "'video/mp4'"),
        ("image/png", b"A", ONE_VIDEO, WrongContentType, "'image/png'"),
        ("application/json", b'{"image": "QQ=="}', ONE_VIDEO, WrongContentType, "'application/json'"),
        ("video/mp4", b"", ONE_VIDEO, BadImage, "empty"),
    ],
)
def test_routes_for_one_file(kind: str, body: bytes, takes: Wanted, error: type[RequestError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_upload(kind, body, takes)
    assert '{"images"' not in caught.value.hint


def test_a_route_for_one_file_takes_it_in_every_way() -> None:
    bodies = [("image/png", b"A"), (FORM, form(file_part("a", b"A"))), ("application/json", b'{"image": "QQ=="}')]
    for kind, body in bodies:
        assert [p.data for p in parse_upload(kind, body, ONE_PICTURE).pictures] == [b"A"]
    for kind, body in [("video/mp4", b"A"), (FORM, form(file_part("a", b"A"))), ("", b"A")]:
        assert [p.data for p in parse_upload(kind, body, ONE_VIDEO).pictures] == [b"A"]


def test_model_must_be_a_name() -> None:
    assert parse_name("model", "a") == "a"
    with pytest.raises(BadField, match="model is a number"):
        parse_name("model", 5)


@given(st.binary(max_size=300), st.sampled_from([FORM, "application/json", "image/png"]))
def test_any_body_is_parsed_or_refused(body: bytes, kind: str) -> None:
    with suppress(RequestError):  # the only error that may escape
        assert parse_upload(kind, body, wanted(2)).pictures
