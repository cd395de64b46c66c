"""Sessions of fake engines, opened in each way that there is."""

from collections.abc import Callable, Iterator

import pytest

from tests.trt_plugins.fake_gpu import FakeGpu
from tests.trt_plugins.fake_tensorrt import Model
from tests.trt_plugins.sessions import start
from trt_plugins.session import Session


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
