"""config.pbtxt is read as Google's own reader does with Triton's schema, and what is not understood is refused."""

import math
import re
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from serve.foreign.config import ConfiguredTensor, ForeignConfig, parse_config, parse_json_config
from serve.foreign.text_format import TextFormatError, parse_text_format

SIMPLE = """
# Triton's example of two inputs and two outputs.
name: "simple"
platform: 'onnxruntime' "_onnx"
max_batch_size: 8;
input [
  { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "INPUT1", data_type: TYPE_INT32, dims: 16 }
]
output { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 0x10 ] label_filename: "labels.txt" }
output < name: "OUTPUT\\061" data_type: TYPE_INT32 dims: [ 4, -1 ] reshape { shape: [ -1 ] } >
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
version_policy: { latest { num_versions: 1 } }
"""


def test_a_whole_configuration() -> None:
    assert parse_config(SIMPLE.encode(), "simple") == ForeignConfig(
        max_batch_size=8,
        inputs=(ConfiguredTensor("INPUT0", "INT32", (16,)), ConfiguredTensor("INPUT1", "INT32", (16,))),
        outputs=(
            ConfiguredTensor("OUTPUT0", "INT32", (16,), label_filename="labels.txt"),
            ConfiguredTensor("OUTPUT1", "INT32", (4, -1), (-1,)),
        ),
        dynamic_batching=True,
        instances=2,
        passed_over=(
            "parameters",
            "dynamic_batching.preferred_batch_size",
            "dynamic_batching.max_queue_delay_microseconds",
        ),
    )
    assert parse_config(b"", "any") == ForeignConfig()


def test_json_says_the_same() -> None:
    parsed = text_format.Parse(SIMPLE, model_config_pb2.ModelConfig())
    as_json = json_format.MessageToJson(parsed, preserving_proto_field_name=True)
    assert parse_json_config(as_json, "simple") == parse_config(SIMPLE.encode(), "simple")
    for text, said in (
        ("[]", "the document is not an object"),
        ("{", "the configuration is not JSON"),
        ('{"input": [3]}', "input is not a block"),
        ('{"input": {"dims": [1.5]}}', "input.name has 0 characters"),
        ('{"max_batch_size": [[1]]}', "max_batch_size is not an object"),
        ('{"input": {"a": ' * 40 + "1" + "}}" * 40, "too deep"),
    ):
        with pytest.raises(TextFormatError, match=re.escape(said)):
            parse_json_config(text, "simple")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name: "other"', "name is 'other', the folder is 'simple'"),
        ('backend: "pytorch"', "it needs 'pytorch', this server has ONNX Runtime only"),
        ("sequence_batching { }", "sequence_batching is not understood"),
        ("ensemble_scheduling { }", "ensemble_scheduling is not understood"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy is not understood"),
        ("dynamic_batching { delay: 3 }", "dynamic_batching.delay is not understood"),
        ("max_batch_size: 1000000", "max_batch_size is 1000000"),
        ("max_batch_size: 1.5", "max_batch_size is '1.5', a whole number"),
        ("max_batch_size: 1_0", "max_batch_size is '1_0', a whole number"),
        ("max_batch_size: 1 max_batch_size: 2", "max_batch_size comes 2 times"),
        ('max_batch_size: "1"', "max_batch_size is not a number"),
        ("name: simple", "name is not a string"),
        ("input: 3", "input is not a block"),
        ("max_batch_size 3", "':' after max_batch_size"),
        ("max_batch_size: [", "line 1 has 'the end'"),
        ("input {", "line 1 has 'the end'"),
        ("input }", "line 1 has '}'"),
        ("dims: [1 2]", "',' or ']'"),
        ("\n\nname: \"a", "line 3 has"),
        ('name: "\\377"', "not UTF-8"),
        ("a {" * 40, "more than 16 blocks"),
        ('default_model_filename: "../other/model.onnx"', "plain name"),
        ('input { name: "x" data_type: TYPE_BF16 dims: 1 }', "input.data_type is 'TYPE_BF16'"),
        ('input { name: "x" data_type: TYPE_FP32 }', "input.dims is missing"),
        ('input { name: "x" data_type: TYPE_FP32 dims: [ 0 ] }', "input.dims has sizes"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 1 optional: true }', "input.optional is not understood"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 1 label_filename: "l" }', "input.label_filename is not under"),
        ('output { name: "x" data_type: TYPE_FP32 dims: 1 label_filename: "/etc/passwd" }', "plain name"),
        ('input [ { name: "x" data_type: TYPE_FP32 dims: 1 }, { name: "x" data_type: TYPE_FP32 dims: 1 } ]', "once"),
        ('input { name: "x" data_type: TYPE_FP32 dims: [-1, -1] reshape { shape: [-1] } }', "sizes of -1"),
        ("instance_group { count: 1000 }", "1000 instances"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(text: str, said: str) -> None:
    with pytest.raises(TextFormatError, match=re.escape(said)):
        parse_config(text.encode(), "simple")


@given(st.binary(max_size=200) | st.text("{}[]<>:,;\"'\\-# \nax01", max_size=60).map(str.encode))
def test_whatever_lies_in_the_file_is_read_or_refused(raw: bytes) -> None:
    """No other exception comes out, whatever goes in."""
    with suppress(TextFormatError):
        assert parse_config(raw, "any").instances is None


names = st.text(min_size=1, max_size=12)
whole = st.integers(-(2**63) + 1, 2**63 - 1)


@given(names, whole, st.lists(whole, max_size=4), st.binary(max_size=8))
def test_it_reads_what_googles_writer_writes(name: str, size: int, dims: list[int], other: bytes) -> None:
    """Strings with every escape, numbers of every sign, lists and maps."""
    rows = math.copysign(abs(size) % 2**31, size)
    written: Any = model_config_pb2.ModelConfig(name=name, max_batch_size=int(rows))
    written.input.add(name=name, dims=dims, data_type=model_config_pb2.TYPE_FP16)
    written.parameters[name].string_value = other.decode("latin-1")
    for text in (text_format.MessageToString(written), text_format.MessageToString(written, as_one_line=True)):
        read = parse_text_format(text)
        assert read.string("name") == name
        assert read.integer("max_batch_size") == rows
        [one] = read.messages("input")
        assert (one.string("name"), one.integers("dims"), one.word("data_type")) == (name, dims, "TYPE_FP16")
        [pair] = read.messages("parameters")
        assert pair.string("key") == name
        [value] = pair.messages("value")
        assert value.string("string_value") == other.decode("latin-1")
        one.done()
        read.done()
