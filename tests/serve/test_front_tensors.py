"""Models that are not ours behind fronts: as in one process, whatever the tensors are and whoever goes away."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from serve.batcher import Batcher
from serve.errors import EngineFailed, NotReady
from serve.foreign.config import ForeignConfig
from serve.foreign.engine import ForeignEngine, TensorRequest
from serve.foreign.model import ForeignModel
from serve.fronts.parcel import packed, unpacked
from serve.fronts.tensor_desk import TensorDesk
from serve.fronts.tensor_link import TensorLink
from serve.ticket import Ticket
from serve.urgency import Priority
from tests.serve.foreign_asking import FP32, pair, write_all
from tests.serve.foreign_models import identity, write_foreign
from tests.serve.servers import wait_until
from tests.serve.test_cli import program
from tests.serve.test_foreign_served import (
    test_a_body_without_json,
    test_answers_are_bounded,
    test_classes_of_any_output,
    test_every_datatype_comes_back_as_it_went,
    test_one_bad_request_does_not_fail_the_others,
    test_only_the_open_inference_protocol_serves_them,
    test_shapes_without_a_batch_axis_without_any_and_reshaped,
    test_simple_http_async_infer_client,
    test_simple_http_health_metadata,
    test_simple_http_infer_client,
    test_simple_http_string_infer_client,
    test_what_does_not_fit_the_model_is_refused,
)

__all__ = [
    "test_a_body_without_json",
    "test_answers_are_bounded",
    "test_classes_of_any_output",
    "test_every_datatype_comes_back_as_it_went",
    "test_one_bad_request_does_not_fail_the_others",
    "test_only_the_open_inference_protocol_serves_them",
    "test_shapes_without_a_batch_axis_without_any_and_reshaped",
    "test_simple_http_async_infer_client",
    "test_simple_http_health_metadata",
    "test_simple_http_infer_client",
    "test_simple_http_string_infer_client",
    "test_what_does_not_fit_the_model_is_refused",
]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fronts need Linux")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("foreign-models")
    write_all(root)
    flags = ("--fronts", "2", "--decode-threads", "2", "--max-body-bytes", str(1 << 20), "--no-access-log")
    with program(root, *flags, "--model-control", "explicit") as (_, url):
        yield url.removeprefix("http://")


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    client = triton.InferenceServerClient(address, concurrency=4)
    yield client
    client.close()


def test_a_configuration_that_comes_with_a_load_is_everybodys(address: str, client: Any) -> None:
    def sizes() -> set[int]:
        url = f"http://{address}/v2/models/simple/config"
        return {httpx.get(url, timeout=60).json()["max_batch_size"] for _ in range(6)}

    client.load_model("simple", config='{"max_batch_size": "16"}')
    assert sizes() == {16}
    many = np.ones((16, 16), np.int32)
    assert (client.infer("simple", pair(many, many)).as_numpy("OUTPUT0") == 2).all()
    client.load_model("simple")
    assert sizes() == {8}


STRINGS = npst.arrays(object, npst.array_shapes(min_dims=0, min_side=0), elements=st.text(max_size=5))
NUMBERS = st.sampled_from(["?", "i1", "<i8", "<u2", "<f2", "<f8"]).flatmap(
    lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=0, min_side=0))
)


@given(st.integers(0, 9), st.dictionaries(st.text(max_size=4), STRINGS | NUMBERS, max_size=3))
def test_a_parcel_is_as_it_was_packed(rows: int, tensors: dict[str, Any]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    came_rows, came = unpacked(packed(rows, tensors))
    assert (came_rows, list(came)) == (rows, list(tensors))
    for name, array in tensors.items():
        assert (came[name].dtype, came[name].shape) == (array.dtype, array.shape)
        assert came[name].tobytes() == array.tobytes() if array.dtype != object else (came[name] == array).all()
    assert set(os.listdir("/proc/self/fd")) <= before  # what other tests left behind may be closed meanwhile


class Batched:
    """What waits for the engine, which takes it when the test says so."""

    def __init__(self, engine: ForeignEngine) -> None:
        self.waiting: list[Ticket] = []
        self.expected = 0
        self._engine = engine

    def expect(self) -> None:
        self.expected += 1

    def put(self, ticket: Ticket) -> None:
        self.expected -= 1
        self.waiting.append(ticket)

    def run(self) -> None:
        ticket = self.waiting.pop(0)
        if ticket.abandoned:
            ticket.drop()
            return
        [ticket.result] = self._engine.run_all([ticket.pixels])
        ticket.pixels, ticket.batch_size, ticket.infer_s = None, 1, 0.25
        ticket.on_done(ticket)


class Way:
    """A front's end and the engine's, each with its thread."""

    def __init__(self, engine: ForeignEngine) -> None:
        self.batched = Batched(engine)
        model = ForeignModel.__new__(ForeignModel)
        model.signature, model.batcher = engine.signature, cast(Batcher, self.batched)
        ours, self._theirs = socket.socketpair()
        self.link, self.desk = TensorLink(ours), TensorDesk(self._theirs, [model])
        self._threads = [threading.Thread(target=run) for run in (self.link.run, self.desk.serve)]
        for thread in self._threads:
            thread.start()
        self.done: list[Ticket] = []

    def ask(self, value: float) -> tuple[Ticket, TensorRequest]:
        ticket = Ticket(self.done.append, Priority.HIGH)
        ticket.pixels = request = TensorRequest({"INPUT0": np.full((2, 3), value, np.float32)}, 2)
        before = len(self.batched.waiting)
        self.link.submit(0, ticket)
        wait_until(lambda: len(self.batched.waiting) > before, 30)
        return ticket, request

    def end(self) -> None:
        self.link.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        self.link._control.close()


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    folder = write_foreign(tmp_path, "same", identity(FP32))
    way = Way(ForeignEngine(folder / "model.onnx", ForeignConfig()))
    yield way
    way.end()


def test_a_request_and_its_answer(way: Way) -> None:
    ticket, request = way.ask(7)
    assert way.link.waiting(0) == 1
    assert way.batched.waiting[0].priority is Priority.HIGH
    assert way.batched.expected == 0
    way.batched.run()
    wait_until(lambda: way.done == [ticket], 30)
    [output] = ticket.result
    assert (output == np.full((2, 3), 7, np.float32)).all()
    assert (request.size, ticket.batch_size, ticket.infer_s) == (2, 1, 0.25)
    assert way.link.waiting(0) == 0


def test_an_error_of_the_engine_comes_through(way: Way) -> None:
    ticket, _ = way.ask(7)
    [asked] = way.batched.waiting
    asked.error = EngineFailed("engine_failed", "it failed on this request", "see the log")
    asked.on_done(asked)
    wait_until(lambda: way.done == [ticket], 30)
    assert isinstance(ticket.error, EngineFailed)
    assert ticket.error.as_dict() == asked.error.as_dict()


def test_a_request_that_cannot_be_sent_ends_no_thread(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent by a thread that decodes for everybody."""
    ticket = Ticket(way.done.append, Priority.HIGH)
    ticket.pixels = TensorRequest({"INPUT0": np.zeros((2, 3), np.float32)}, 2)
    with monkeypatch.context() as full:
        full.setattr("serve.fronts.tensor_link.packed", Mock(side_effect=MemoryError))
        way.link.submit(0, ticket)
    assert way.done == [ticket]
    assert isinstance(ticket.error, EngineFailed)
    assert way.link.waiting(0) == 0
    way.ask(7)


def test_an_answer_that_cannot_be_sent_is_an_error(way: Way) -> None:
    ticket, _ = way.ask(7)
    [asked] = way.batched.waiting
    asked.result = [np.array(["\ud800"], object)]
    asked.on_done(asked)
    wait_until(lambda: way.done == [ticket], 30)
    assert isinstance(ticket.error, EngineFailed)


def test_a_run_that_nobody_waits_for_is_broken_off(way: Way) -> None:
    ticket, _ = way.ask(7)
    [asked] = way.batched.waiting
    request = asked.pixels
    ticket.abandon()
    wait_until(lambda: request.stopped, 30)
    assert asked.abandoned
    asked.on_done(asked)
    other, _ = way.ask(8)
    way.batched.waiting.pop(0)
    way.batched.run()
    wait_until(lambda: way.done == [other], 30)


def test_what_a_dead_front_asked_is_broken_off(way: Way) -> None:
    way.ask(7)
    [asked] = way.batched.waiting
    request = asked.pixels
    way.link.close()
    wait_until(lambda: request.stopped, 30)
    way.batched.run()


def test_a_dead_engine_refuses_all_that_is_in_flight_and_all_that_comes(way: Way) -> None:
    first, _ = way.ask(7)
    way._theirs.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: way.done == [first], 30)
    late = Ticket(way.done.append)
    late.pixels = TensorRequest({}, 1)
    way.link.submit(0, late)
    assert [type(ticket.error) for ticket in way.done] == [NotReady, NotReady]
    assert way.done[1] is late
