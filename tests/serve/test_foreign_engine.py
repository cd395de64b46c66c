"""Graphs that are not ours: what they say of themselves, what they may not be, and requests that share runs."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from serve.foreign.config import ConfiguredTensor, parse_config
from serve.foreign.engine import ForeignEngine, Stopped, TensorRequest
from serve.foreign.graph import USUAL_ROWS, GraphMismatch
from tests.serve.foreign_models import add_sub, config_of, graph, identity

F, INT = TensorProto.FLOAT, TensorProto.INT32


def opened(folder: Path, model: onnx.ModelProto, config: str = "") -> ForeignEngine:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return ForeignEngine(path, parse_config(config.encode(), "any"))


@pytest.mark.parametrize(
    ("axes", "rows", "dims", "reshaped"),
    [
        (("batch", 16), USUAL_ROWS, (16,), None),
        ((None, 16, "n"), USUAL_ROWS, (16, -1), None),
        ((4, 16), 0, (4, 16), None),
        (("batch",), USUAL_ROWS, (1,), ()),
        ((), 0, (1,), ()),
    ],
)
def test_a_graph_completes_what_no_configuration_says(
    tmp_path: Path, axes: Any, rows: int, dims: Any, reshaped: Any
) -> None:
    signature = opened(tmp_path, identity(F, axes)).signature
    assert signature.max_rows == rows
    assert signature.inputs == (ConfiguredTensor("INPUT0", "FP32", dims, reshaped),)
    assert signature.outputs == (ConfiguredTensor("OUTPUT0", "FP32", dims, reshaped),)


def test_axes_of_different_names_are_no_batch(tmp_path: Path) -> None:
    tensors = {"INPUT0": (INT, ("rows", 2)), "INPUT1": (INT, ("columns", 2))}
    nodes = [("Concat", ["INPUT0", "INPUT1"], ["OUTPUT0"], {"axis": 0})]
    signature = opened(tmp_path, graph(nodes, tensors, {"OUTPUT0": (INT, ("all", 2))})).signature
    assert (signature.max_rows, signature.inputs[0].dims) == (0, (-1, 2))


ONE = {"INPUT0": ("FP32", "dims: [ 4 ]")}
OUT = {"OUTPUT0": ("FP32", "dims: [ 4 ]")}


@pytest.mark.parametrize(
    ("model", "config", "said"),
    [
        (identity(F, ("b", 4)), config_of(8, {"x": ("FP32", "dims: 4")}, OUT), r"leaves out the graph's inputs \['INP"),
        (identity(F, ("b", 4)), config_of(8, {**ONE, "x": ("FP32", "dims: 4")}, OUT), r"has input 'x', the graph has"),
        (identity(F, ("b", 4)), config_of(8, ONE, {"x": ("FP32", "dims: 4")}), r"has output 'x', the graph has"),
        (identity(F, ("b", 4)), config_of(8, {"INPUT0": ("FP64", "dims: 4")}, OUT), r"is FP64 \[4\] in the conf"),
        (identity(F, ("b", 4)), config_of(8, {"INPUT0": ("FP32", "dims: 5")}, OUT), r"is FP32 \[5\] in the conf"),
        (identity(F, ("b", 4)), config_of(0, ONE, OUT), r"is FP32 \[4\] in the configuration, FP32 \['b', 4\] in"),
        (identity(F, (2, 4)), config_of(8, ONE, OUT), r"max_batch_size is 8, but 'INPUT0' is FP32 \[2, 4\]"),
        (identity(TensorProto.BFLOAT16, (2, 4)), "", r"input 'INPUT0' is tensor\(bfloat16\), which the protocol"),
    ],
)
def test_graph_and_configuration_must_agree(tmp_path: Path, model: onnx.ModelProto, config: str, said: str) -> None:
    with pytest.raises(GraphMismatch, match=said):
        opened(tmp_path, model, config)


def test_outputs_that_cannot_be_sent_are_left_out(tmp_path: Path) -> None:
    """Such as the maps that classifiers of other libraries give beside their tensors."""
    model = graph(
        [("Identity", ["INPUT0"], ["OUTPUT0"], {}), ("SequenceConstruct", ["INPUT0"], ["list"], {})],
        {"INPUT0": (F, ("b", 4))},
        {"OUTPUT0": (F, ("b", 4))},
    )
    model.graph.output.append(onnx.helper.make_tensor_sequence_value_info("list", F, None))
    engine = opened(tmp_path, model)
    assert [tensor.name for tensor in engine.signature.outputs] == ["OUTPUT0"]


requests = st.lists(st.tuples(st.integers(1, 5), st.sampled_from((1, 3))), min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(asked=requests)
def test_requests_that_share_runs_get_their_own_rows(asked: list[tuple[int, int]], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("shared")
    engine = opened(folder, add_sub(axes=("b", "n")), "max_batch_size: 5 dynamic_batching { }")
    runs: list[int] = []
    session = engine._session
    engine._session = Counting(session, runs)  # type: ignore[assignment]
    rng = np.random.default_rng(len(asked))
    sent = []
    for rows, width in asked:
        pair = rng.integers(-9, 9, (2, rows, width), dtype=np.int32)
        sent.append(TensorRequest({"INPUT0": pair[0], "INPUT1": pair[1]}, rows))
    for request, (total, difference) in zip(sent, engine.run_all(sent), strict=True):
        assert np.array_equal(total, request.inputs["INPUT0"] + request.inputs["INPUT1"])
        assert np.array_equal(difference, request.inputs["INPUT0"] - request.inputs["INPUT1"])
        assert request.rows <= request.size <= 5
    assert sum(runs) == sum(rows for rows, _ in asked)
    assert max(runs) <= 5
    assert len(runs) == sum(packed([rows for rows, of in asked if of == width]) for width in (1, 3))


def packed(sizes: list[int]) -> int:
    """Runs of up to 5 rows, filled in the order of the requests."""
    runs, room = 0, 0
    for size in sizes:
        if size > room:
            runs, room = runs + 1, 5
        room -= size
    return runs


class Counting:
    def __init__(self, session: Any, runs: list[int]) -> None:
        self._session = session
        self._runs = runs

    def run(self, outputs: Any, feed: Any, options: Any) -> Any:
        self._runs.append(len(feed["INPUT0"]))
        return self._session.run(outputs, feed, options)


def test_graphs_without_a_batch_axis_run_one_request_at_a_time(tmp_path: Path) -> None:
    engine = opened(tmp_path, identity(F, (2, 3)))
    sent = [TensorRequest({"INPUT0": np.full((2, 3), k, np.float32)}, 0) for k in range(3)]
    assert [answer[0][0, 0] for answer in engine.run_all(sent)] == [0, 1, 2]


def test_an_output_without_its_batchs_rows_is_an_error(tmp_path: Path) -> None:
    nodes = [("Concat", ["INPUT0", "INPUT0"], ["OUTPUT0"], {"axis": 0})]
    model = graph(nodes, {"INPUT0": (F, ("b", 2))}, {"OUTPUT0": (F, (None, 2))})
    engine = opened(tmp_path, model, "max_batch_size: 4")
    with pytest.raises(RuntimeError, match=r"output 'OUTPUT0' is \[6, 2\] for a batch of 3 rows"):
        engine.run_all([TensorRequest({"INPUT0": np.zeros((3, 2), np.float32)}, 3)])


def forever() -> onnx.ModelProto:
    """Counts to 2^40: days."""
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["go"], ["go_on"]),
            onnx.helper.make_node("Add", ["at", "step"], ["then"]),
        ],
        "body",
        [
            onnx.helper.make_tensor_value_info("i", TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("at", F, [1, 1]),
        ],
        [
            onnx.helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("then", F, [1, 1]),
        ],
        [onnx.numpy_helper.from_array(np.ones((1, 1), np.float32), "step")],
    )
    constants = {"often": np.array(1 << 40), "yes": np.array(True)}
    nodes = [("Loop", ["often", "yes", "INPUT0"], ["OUTPUT0"], {"body": body})]
    return graph(nodes, {"INPUT0": (F, (1, 1))}, {"OUTPUT0": (F, (1, 1))}, constants)


@pytest.mark.parametrize("early", [True, False], ids=["before", "meanwhile"])
def test_a_run_that_nobody_waits_for_is_broken_off(tmp_path: Path, early: bool) -> None:
    engine = opened(tmp_path, forever())
    request = TensorRequest({"INPUT0": np.zeros((1, 1), np.float32)}, 0)
    timer = threading.Timer(0.0 if early else 0.2, request.stop)
    if early:
        request.stop()
    else:
        timer.start()
    with pytest.raises(Stopped):
        engine.run_all([request])
    timer.cancel()


def test_a_run_goes_on_while_one_of_its_requests_is_wanted(tmp_path: Path) -> None:
    engine = opened(tmp_path, add_sub(), "max_batch_size: 4 dynamic_batching { }")
    sent = [TensorRequest({name: np.ones((1, 16), np.int32) for name in ("INPUT0", "INPUT1")}, 1) for _ in range(2)]
    sent[0].stop()
    answers = engine.run_all(sent)
    assert answers[1][0].tolist() == [[2] * 16]
