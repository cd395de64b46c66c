"""The runner of engines on a fake GPU: what comes out, and in which batches."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trt_plugins.fake_gpu import FakeGpu
from tests.trt_plugins.fake_tensorrt import classifier, denoiser, expected
from tests.trt_plugins.sessions import pictures, start
from trt_plugins.session import Session


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
    inside, gate, most, counting = [0], threading.Event(), [0], threading.Lock()
    compute = model.compute

    def slow(inputs: dict[str, npt.NDArray[np.uint8]]) -> dict[str, npt.NDArray[np.uint8]]:
        with counting:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        assert gate.wait(60)
        with counting:
            inside[0] -= 1
        return compute(inputs)

    model.compute = slow
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(session.run, {"pixels": pictures(1, seed)}) for seed in range(3)]
        deadline = time.monotonic() + 60
        while inside[0] < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert inside[0] == 2
        gate.set()
        for seed, call in enumerate(calls):
            np.testing.assert_allclose(call.result()["probabilities"], expected(pictures(1, seed)), rtol=1e-6)
    assert most[0] == 2
    session.close()
