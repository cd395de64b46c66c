"""Engines that a real TensorRT builds and runs, through a session on each memory backend. Needs a GPU: -m gpu."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from trt_plugins.flavors import Tensorrt, TensorrtMissing, open_tensorrt
from trt_plugins.session import EngineError, Session, open_session

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def tensorrt(request: pytest.FixtureRequest) -> Tensorrt:
    try:
        return open_tensorrt(request.param)
    except TensorrtMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def plan(tensorrt: Tensorrt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float32 x (B, 8) to y = 2 relu(x) + 1, for 1 to 12 rows."""
    trt = tensorrt.module
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    x = network.add_input("x", trt.float32, (-1, 8))
    two, one = (network.add_constant((1, 1), np.full((1, 1), v, np.float32)).get_output(0) for v in (2, 1))
    y = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    y = network.add_elementwise(y, two, trt.ElementWiseOperation.PROD).get_output(0)
    y = network.add_elementwise(y, one, trt.ElementWiseOperation.SUM).get_output(0)
    y.name = "y"
    network.mark_output(y)
    profile.set_shape("x", (1, 8), (4, 8), (12, 8))
    config.add_optimization_profile(profile)
    path = tmp_path_factory.mktemp(tensorrt.flavor) / "m.plan"
    path.write_bytes(bytes(builder.build_serialized_network(network, config)))
    return path


@pytest.fixture(params=["cuda-core", "pycuda"])
def session(request: pytest.FixtureRequest, plan: Path, tensorrt: Tensorrt) -> Session:
    if find_spec({"cuda-core": "cuda", "pycuda": "pycuda"}[request.param]) is None:
        pytest.skip(f"{request.param} is not installed")
    try:
        return open_session(plan, tensorrt, memory=request.param)
    except EngineError as error:
        if any(words in str(error) for words in ("there is no NVIDIA GPU", "for another GPU")):
            pytest.skip(str(error))  # TensorRT-RTX supports fewer GPUs than there are
        raise


def batch(count: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def test_every_batch_size_from_many_threads(session: Session) -> None:
    assert session.buckets == (1, 2, 4, 8, 12)

    def call(seed: int) -> bool:
        x = batch(1 + seed % 12, seed)
        return bool(np.allclose(session.run({"x": x})["y"], 2 * np.maximum(x, 0) + 1, atol=1e-5))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(200)))
    session.close()


def test_a_second_session_beside_the_first(session: Session, plan: Path, tensorrt: Tensorrt) -> None:
    other = open_session(plan, tensorrt, max_batch=3)
    assert other.buckets == (1, 2, 3)
    x = batch(3, 0)
    np.testing.assert_array_equal(session.run({"x": x})["y"], other.run({"x": x})["y"])
    session.close()
    np.testing.assert_allclose(other.run({"x": x})["y"], 2 * np.maximum(x, 0) + 1, atol=1e-5)
    other.close()
