"""Smoothing changes no answer, evens out what is quantised, and leaves alone what it may not touch."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from export import smoothing
from export.measures import ParityError
from export.smoothing import linear_layers, smooth

CHANNELS = 6
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 2, 3, CHANNELS), dtype=np.uint8)
VALUES = {
    "gain": RNG.uniform(0.5, 2, CHANNELS) * [1, 40, 1, 1, 0.02, 1],
    "shift": RNG.standard_normal(CHANNELS),
    "a": RNG.standard_normal((4, CHANNELS)),
    "b": RNG.standard_normal((CHANNELS, 4)),
    "c": RNG.standard_normal((CHANNELS, CHANNELS)),
    "d": RNG.standard_normal((3, 3)),
}
TYPES = "float[batch,2,3,6] x, float[batch,2,3,6] y, float[rows,6] rows, float[batch,3,6] first, float[rows,36] wide"
# what follows the norm's output y, up to z
BOTH = "rows = Reshape(y, flat) z1 = Gemm<transB=1>(rows, a) z2 = MatMul(rows, b) z = Add(z1, z2)"


def graph(after: str, output: str = "float[n,m] z") -> onnx.ModelProto:
    """Pictures through one layer norm and what is given; constants are VALUES."""
    text = f"""
    <ir_version: 10, opset_import: ["": 20]>
    net (uint8[batch,2,3,6] images) => ({output}) <
      int64[2] flat = {{-1,6}}, int64[2] flatter = {{-1,36}}, int64[1] none = {{0}}, int64[1] one = {{1}},
      int64[1] last = {{3}}, int64[1] all = {{6}}, int64 zero = {{0}}, int64[6] moved = {{5,4,3,2,1,0}}, {TYPES}
    > {{
      x = Cast<to=1>(images)
      y = LayerNormalization(x, gain, shift)
      {after}
    }}"""
    model = parser.parse_model(text)
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in VALUES.items()]
    model.graph.initializer.extend(initializers)
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, *names: str) -> list[Any]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(n, 1, None) for n in names if n not in known)
    session: Any = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(names), {"images": IMAGES})  # type: ignore[no-any-return]


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_answers_stay_and_activations_meet_their_weights_halfway() -> None:
    """With strength 1/2 both sides of equation 4 become sqrt(max|x| max|w|), channel by channel."""
    before = graph(BOTH)
    after = smooth(before, IMAGES)
    np.testing.assert_allclose(run(after, "z")[0], run(before, "z")[0], rtol=1e-4, atol=1e-4)
    gemm, matmul = linear_layers(after.graph)
    values = constants(after)
    weights = np.concatenate([values[gemm.input[1]], values[matmul.input[1]].T])
    found, old = (np.abs(run(model, "rows")[0]).max(axis=0) for model in (after, before))
    np.testing.assert_allclose(found, np.abs(weights).max(axis=0), rtol=1e-4)
    assert found.max() / found.min() < 0.3 * old.max() / old.min()
    assert constants(before).keys() == {"flat", "gain", "shift", "a", "b"}, "the graph that was given is not changed"


@pytest.mark.parametrize(
    "after",
    [
        "t = Slice(y, none, one, one) rows = Reshape(t, flat) z = Gemm<transB=1>(rows, a)",
        "first = Gather<axis=1>(y, zero) rows = Reshape(first, flat) z = MatMul(rows, b)",
    ],
)
def test_a_norm_read_by_some_tokens_only_is_smoothed(after: str) -> None:
    before = onnx.shape_inference.infer_shapes(graph(after))
    found = smooth(before, IMAGES)
    assert {"gain", "shift"}.isdisjoint(constants(found))
    np.testing.assert_allclose(run(found, "z")[0], run(before, "z")[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (f"{BOTH.replace('z =', 'w =')} total = ReduceSum<keepdims=0>(y) z = Add(w, total)", "something else reads it"),
        ("wide = Reshape(y, flatter) z = Identity(wide)", "nothing linear reads it"),
        ("t = Slice(y, one, all, last) w = Reshape(t, flat) z = Gemm<transB=1>(w, a)", "channels are cut"),
        ("t = Gather<axis=3>(y, moved) rows = Reshape(t, flat) z = MatMul(rows, b)", "channels move"),
        ("rows = Reshape(y, flat) z = Gemm<transB=1>(rows, rows)", "it is no constant's product"),
        ("w = MatMul(d, y) z = Reshape(w, flat)", "it is the right side"),
    ],
)
def test_other_norms_are_left_alone(after: str, why: str) -> None:
    before = onnx.shape_inference.infer_shapes(graph(after))
    assert constants(smooth(before, IMAGES)).keys() >= {"gain", "shift"}, why


def test_a_constant_of_two_layers_changes_for_one_alone() -> None:
    both = "rows = Reshape(y, flat) z1 = MatMul(rows, c) old = Reshape(x, flat) z2 = MatMul(old, c) z = Add(z1, z2)"
    before = graph(both)
    after = smooth(before, IMAGES)
    np.testing.assert_array_equal(constants(after)["c"], constants(before)["c"])
    np.testing.assert_allclose(run(after, "z")[0], run(before, "z")[0], rtol=1e-4, atol=1e-2)
    assert {"gain", "shift"}.isdisjoint(constants(after))


def test_channels_without_values_or_weights_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, "gain", np.array([0, 1, 1, 1, 0, 1.0]))
    monkeypatch.setitem(VALUES, "shift", np.array([0, 1, 1, 1, 0, 1.0]))
    monkeypatch.setitem(VALUES, "a", VALUES["a"] * [1, 0, 1, 1, 0, 1])
    before = graph("rows = Reshape(y, flat) z = Gemm<transB=1>(rows, a)")
    after = smooth(before, IMAGES)
    assert all(np.isfinite(value).all() for value in constants(after).values())
    np.testing.assert_allclose(run(after, "z")[0], run(before, "z")[0], rtol=1e-4, atol=1e-4)


def test_a_fold_that_changes_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = smoothing._View.replace

    def half(view: Any, node: onnx.NodeProto, index: int, value: Any) -> None:
        if node.op_type == "LayerNormalization":
            whole(view, node, index, value)

    monkeypatch.setattr(smoothing._View, "replace", half)
    with pytest.raises(ParityError, match="smoothing before quantisation changed the logits"):
        smooth(graph(BOTH), IMAGES)
