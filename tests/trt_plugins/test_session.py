"""The runner of engines on a fake GPU: what comes out, in which batches, and what happens when something fails."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trt_plugins.fake_gpu import FakeGpu, FakeMemory
from tests.trt_plugins.fake_tensorrt import Model, classifier, denoiser, expected, fake_tensorrt
from trt_plugins import engine_plan
from trt_plugins.session import EngineError, Session, start_session

Pixels = npt.NDArray[np.uint8]


def pictures(count: int, seed: int = 0, size: int = 4) -> Pixels:
    return np.random.default_rng(seed).integers(100, 256, (count, size, size, 3), dtype=np.uint8)


def start(
    gpu: FakeGpu,
    model: Model,
    flavor: str = "tensorrt",
    has_graphs: bool = True,
    rows: dict[str, tuple[int, ...]] | None = None,
    max_batch: int | None = None,
) -> tuple[Session, FakeMemory]:
    """A session of ``model``, and the memory that counts what it does."""
    tensorrt = fake_tensorrt(gpu, {b"plan": model}, flavor)
    log = engine_plan._log(tensorrt.module)
    runtime = tensorrt.module.Runtime(log)
    plan = engine_plan.Plan(runtime.deserialize_cuda_engine(b"plan"), runtime, log)
    memory = FakeMemory(gpu, has_graphs)
    return start_session(plan, tensorrt, memory, Path("m.plan"), rows=rows or {}, max_batch=max_batch), memory


@pytest.fixture(params=["tensorrt", "tensorrt-rtx", "without graphs"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Session]]:
    """Opens sessions in each way that there is, and sees that each gives everything back."""
    gpu = FakeGpu(delay_s=0.0005)
    sessions: list[Session] = []

    def open_one(model: Model, rows: dict[str, tuple[int, ...]] | None = None, max_batch: int | None = None) -> Session:
        flavor = "tensorrt" if request.param == "without graphs" else request.param
        session, _ = start(gpu, model, flavor, request.param != "without graphs", rows, max_batch)
        sessions.append(session)
        return session

    yield open_one
    for session in sessions:
        session.close()
    assert gpu.leftovers == (0, 0, 0)


def test_every_batch_size_gives_each_row_its_own_result(opened: Callable[..., Session]) -> None:
    session = opened(classifier(largest=6))
    for count in (6, 1, 5, 2, 3, 4, 6):
        batch = pictures(count, seed=count)
        np.testing.assert_allclose(session.run({"pixels": batch})["probabilities"], expected(batch), rtol=1e-6)


def test_a_batch_is_padded_to_the_next_bucket(opened: Callable[..., Session]) -> None:
    model = classifier(largest=6)
    session = opened(model)
    assert session.buckets == (1, 2, 4, 6)
    assert session.max_batch == 6
    assert set(model.runs_made) == {1, 2, 4, 6}, "every bucket is warm before the first request"
    model.runs_made.clear()
    for count in range(1, 7):
        session.run({"pixels": pictures(count)})
    assert model.runs_made == [1, 2, 4, 4, 6, 6]


@pytest.mark.parametrize(
    ("smallest", "largest", "wanted", "buckets"),
    [(1, 1, None, (1,)), (1, 8, None, (1, 2, 4, 8)), (3, 12, None, (3, 4, 8, 12)), (8, 8, None, (8,)),
     (1, 64, 5, (1, 2, 4, 5)), (1, 4, 64, (1, 2, 4))],
)  # fmt: skip
def test_buckets_are_powers_of_two_within_the_profile(
    opened: Callable[..., Session], smallest: int, largest: int, wanted: int | None, buckets: tuple[int, ...]
) -> None:
    session = opened(classifier(largest, smallest), max_batch=wanted)
    assert session.buckets == buckets
    batch = pictures(1)
    np.testing.assert_allclose(session.run({"pixels": batch})["probabilities"], expected(batch), rtol=1e-6)


def test_rows_may_come_one_by_one(opened: Callable[..., Session]) -> None:
    session = opened(classifier())
    batch = pictures(5)
    np.testing.assert_array_equal(
        session.run({"pixels": list(batch)})["probabilities"], session.run({"pixels": batch})["probabilities"]
    )


def test_a_result_is_the_callers_own(opened: Callable[..., Session]) -> None:
    session = opened(classifier())
    first = session.run({"pixels": pictures(2, seed=1)})["probabilities"]
    kept = first.copy()
    for seed in range(4):
        session.run({"pixels": pictures(2, seed=seed)})
    np.testing.assert_array_equal(first, kept)


def test_many_callers_get_their_own_results(opened: Callable[..., Session]) -> None:
    session = opened(classifier())

    def call(seed: int) -> bool:
        batch = pictures(1 + seed % 8, seed)
        return bool(np.allclose(session.run({"pixels": batch})["probabilities"], expected(batch), rtol=1e-6))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(60)))


@pytest.mark.parametrize("size", [8, 16, 24])
def test_a_denoiser_runs_one_size_of_tile(opened: Callable[..., Session], size: int) -> None:
    session = opened(denoiser(), rows={"pixels": (size, size, 3)})
    assert session.outputs[0].row == (size, size, 3)
    tiles = pictures(3, size=size)
    np.testing.assert_array_equal(session.run({"pixels": tiles})["denoised"], 255 - tiles)


def test_without_a_size_the_profiles_usual_one_is_taken(opened: Callable[..., Session]) -> None:
    assert opened(denoiser()).inputs[0].row == (16, 16, 3)


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=12), largest=st.integers(1, 9))
def test_any_sequence_of_batches(counts: list[int], largest: int) -> None:
    session, _ = start(FakeGpu(), classifier(largest))
    try:
        for seed, count in enumerate(counts):
            batch = pictures(min(count, largest), seed)
            np.testing.assert_allclose(session.run({"pixels": batch})["probabilities"], expected(batch), rtol=1e-6)
    finally:
        session.close()


def test_a_graph_for_every_bucket_of_both_slots() -> None:
    session, memory = start(FakeGpu(), classifier(largest=8))
    assert memory.captured == 2 * len(session.buckets)
    launched = memory.launched
    session.run({"pixels": pictures(3)})
    assert memory.launched == launched + 1, "one launch is all that a batch costs"
    session.close()


def test_tensorrt_rtx_makes_the_graphs_itself() -> None:
    gpu = FakeGpu()
    session, memory = start(gpu, classifier(), "tensorrt-rtx")
    [config] = session._alive[0].engine.configs
    assert config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert config.cache is not None
    assert memory.captured == 0
    session.close()


def test_an_engine_that_cannot_be_captured_runs_without(caplog: pytest.LogCaptureFixture) -> None:
    model = classifier(largest=2)
    model.can_be_captured = False
    session, memory = start(FakeGpu(), model)
    assert memory.captured == 0
    assert "without a CUDA graph" in caplog.text
    batch = pictures(2)
    np.testing.assert_allclose(session.run({"pixels": batch})["probabilities"], expected(batch), rtol=1e-6)
    session.close()


def test_two_batches_are_in_flight_and_a_third_waits() -> None:
    gpu = FakeGpu()
    model = classifier(largest=1)
    session, _ = start(gpu, model)
    inside, gate, most = [0], threading.Event(), [0]
    compute = model.compute

    def slow(inputs: dict[str, npt.NDArray[np.uint8]]) -> dict[str, npt.NDArray[np.uint8]]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        gate.wait(10)
        inside[0] -= 1
        return compute(inputs)

    model.compute = slow
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(session.run, {"pixels": pictures(1, seed)}) for seed in range(3)]
        deadline = time.monotonic() + 10
        while inside[0] < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert inside[0] == 2
        gate.set()
        for seed, call in enumerate(calls):
            np.testing.assert_allclose(call.result()["probabilities"], expected(pictures(1, seed)), rtol=1e-6)
    assert most[0] == 2
    session.close()


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


def test_closing_waits_for_what_runs_and_refuses_what_comes() -> None:
    gpu = FakeGpu(delay_s=0.02)
    session, _ = start(gpu, classifier(largest=2))
    batch = pictures(2)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(session.run, {"pixels": batch}) for _ in range(2)]
        while session._free:
            time.sleep(0.001)
        session.close()
        assert gpu.leftovers == (0, 0, 0)
        for call in running:
            np.testing.assert_allclose(call.result()["probabilities"], expected(batch), rtol=1e-6)
    with pytest.raises(EngineError, match="closed"):
        session.run({"pixels": batch})
    session.close()


def test_closing_wakes_who_waits_for_a_slot() -> None:
    gpu = FakeGpu(delay_s=0.02)
    session, _ = start(gpu, classifier(largest=1))

    def call(_: int) -> str:
        try:
            session.run({"pixels": pictures(1)})
        except EngineError as error:
            return str(error)
        return "ran"

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call, index) for index in range(8)]
        while session._free:
            time.sleep(0.001)
        session.close()
        assert {done.result(20) for done in calls} <= {"ran", "the session is closed"}
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
