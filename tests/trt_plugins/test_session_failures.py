"""The runner of engines on a fake GPU: what fails, what is refused, and what closing leaves."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from tests.trt_plugins.fake_gpu import FakeGpu
from tests.trt_plugins.fake_tensorrt import Model, classifier, denoiser, expected
from tests.trt_plugins.sessions import Pixels, pictures, start
from trt_plugins.session import EngineError, Session


def test_a_failed_batch_fails_alone(opened: Callable[..., Session]) -> None:
    session = opened(classifier())
    with pytest.raises(EngineError, match="a batch of 2 failed: a kernel failed"):
        session.run({"pixels": np.full((2, 4, 4, 3), 66, np.uint8)})
    assert not session.lost
    for seed in range(4):  # both slots, twice
        batch = pictures(2, seed)
        np.testing.assert_allclose(session.run({"pixels": batch})["probabilities"], expected(batch), rtol=1e-6)


def test_a_row_that_fails_does_not_stay_behind_as_padding(opened: Callable[..., Session]) -> None:
    session = opened(classifier())
    for _ in range(4):  # both slots
        batch = pictures(8)
        batch[5] = 66
        with pytest.raises(EngineError):
            session.run({"pixels": batch})
        for count in (5, 3, 7):
            batch = pictures(count, seed=count)
            np.testing.assert_allclose(session.run({"pixels": batch})["probabilities"], expected(batch), rtol=1e-6)


def test_a_lost_gpu_is_said_once_and_for_all() -> None:
    session, _ = start(FakeGpu(), classifier())
    with pytest.raises(EngineError, match=r"no longer answers.*illegal memory access.*restart"):
        session.run({"pixels": np.full((1, 4, 4, 3), 99, np.uint8)})
    assert session.lost
    with pytest.raises(EngineError, match="no longer answers"):
        session.run({"pixels": pictures(1)})
    session.close()


@contextmanager
def held(model: Model) -> Iterator[threading.Event]:
    """What a model computes waits for this gate, which the block opens."""
    gate, compute = threading.Event(), model.compute

    def hold(inputs: dict[str, Pixels]) -> dict[str, Pixels]:
        assert gate.wait(60)
        return compute(inputs)

    model.compute = hold
    try:
        yield gate
    finally:
        gate.set()


def wait_until_closing(session: Session) -> None:
    while not session._refusal:
        time.sleep(0.001)


def test_closing_waits_for_what_runs_and_refuses_what_comes() -> None:
    gpu, model = FakeGpu(), classifier(largest=2)
    session, _ = start(gpu, model)
    batch = pictures(2)
    with ThreadPoolExecutor(3) as pool, held(model) as gate:
        running = [pool.submit(session.run, {"pixels": batch}) for _ in range(2)]
        while session._free:
            time.sleep(0.001)
        closing = pool.submit(session.close)
        wait_until_closing(session)
        assert not closing.done()
        gate.set()
        closing.result(60)
        assert gpu.leftovers == (0, 0, 0)
        for call in running:
            np.testing.assert_allclose(call.result()["probabilities"], expected(batch), rtol=1e-6)
    with pytest.raises(EngineError, match="closed"):
        session.run({"pixels": batch})
    session.close()


def test_closing_wakes_who_waits_for_a_slot() -> None:
    gpu, model = FakeGpu(), classifier(largest=1)
    session, _ = start(gpu, model)

    def call(_: int) -> str:
        try:
            session.run({"pixels": pictures(1)})
        except EngineError as error:
            return str(error)
        return "ran"

    with ThreadPoolExecutor(9) as pool, held(model) as gate:
        calls = [pool.submit(call, index) for index in range(8)]
        while session._free:
            time.sleep(0.001)
        closing = pool.submit(session.close)
        wait_until_closing(session)
        gate.set()
        closing.result(60)
        assert sorted(done.result(60) for done in calls) == ["ran"] * 2 + ["the session is closed"] * 6
    assert gpu.leftovers == (0, 0, 0)


def test_contexts_go_before_their_memory_and_their_engine() -> None:
    session, _ = start(FakeGpu(), classifier())
    engine = session._alive[0].engine
    assert engine.contexts == 2 * len(session.buckets)
    session.close()
    assert engine.contexts == 0


def test_a_gpu_that_takes_nothing_back_does_not_stop_the_closing(caplog: pytest.LogCaptureFixture) -> None:
    session, memory = start(FakeGpu(), classifier())
    engine = session._alive[0].engine
    memory.device.memory.clear()  # what is freed now is not known
    session.close()
    assert "an engine's memory was not freed" in caplog.text
    assert engine.contexts == 0
    assert memory.device.leftovers == (0, 0, 0), "the rest was freed"


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"picture": pictures(1)}, "takes .'pixels'., got .'picture'."),
        ({"pixels": pictures(9)}, "1 to 8 rows"),
        ({"pixels": pictures(0)}, "1 to 8 rows"),
        ({"pixels": pictures(1, size=5)}, r"uint8 .4, 4, 3., got uint8 .5, 5, 3."),
        ({"pixels": pictures(1).astype(np.float32)}, "got float32"),
        ({"pixels": [pictures(1)[0], pictures(1, size=5)[0]]}, r"got uint8 .5, 5, 3."),
    ],
)
def test_other_inputs_are_refused_before_the_gpu_sees_them(inputs: dict[str, Pixels], said: str) -> None:
    model = classifier()
    session, _ = start(FakeGpu(), model)
    model.runs_made.clear()
    with pytest.raises(ValueError, match=said):
        session.run(inputs)
    assert not model.runs_made
    session.close()


@pytest.mark.parametrize("room", [600, 2000, 4000])
def test_a_gpu_that_is_too_small_is_left_as_it_was(room: int) -> None:
    gpu = FakeGpu(out_of_memory_at=room)
    with pytest.raises(EngineError, match=r"m\.plan: CUDA_ERROR_OUT_OF_MEMORY"):
        start(gpu, classifier(largest=32))
    assert gpu.leftovers == (0, 0, 0)


def test_a_tile_outside_the_profile_is_refused() -> None:
    gpu = FakeGpu()
    with pytest.raises(EngineError, match=r"rows of \[8, 8, 3\] to \[32, 32, 3\], not \[64, 64, 3\]"):
        start(gpu, denoiser(), rows={"pixels": (64, 64, 3)})
    with pytest.raises(EngineError, match=r"inputs .'pixels'., not .'x'."):
        start(gpu, denoiser(), rows={"x": (8, 8, 3)})
    assert gpu.leftovers == (0, 0, 0)


def test_an_output_without_a_row_for_each_input_is_refused() -> None:
    model = classifier()
    kind, _ = model.outputs["probabilities"]
    model.outputs["probabilities"] = kind, lambda shape: (3,)
    with pytest.raises(EngineError, match="needed is a row for each"):
        start(FakeGpu(), model)


def test_a_dtype_that_numpy_lacks_is_refused() -> None:
    model = classifier()
    kind, shape_of = model.outputs["probabilities"]
    model.outputs["probabilities"] = type(kind).BF16, shape_of
    with pytest.raises(EngineError, match="BF16"):
        start(FakeGpu(), model)
