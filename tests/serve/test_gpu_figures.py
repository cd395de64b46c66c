"""GPU metrics through a stand-in for cuda-core's view of the machine, since most machines have none."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from serve.monitoring.gpu_figures import Gpus, GpuState
from serve.monitoring.metrics import Metrics


class Part:
    """A part of a GPU, which says how much memory it has and refuses to say more."""

    index = 1
    name = "H200 MIG 1g.18gb"
    memory_info = SimpleNamespace(used=5, total=10)

    @property
    def utilization(self) -> Any:
        raise RuntimeError("not supported")

    temperature = utilization


WHOLE = SimpleNamespace(
    index=0,
    name="H200",
    memory_info=SimpleNamespace(used=1 << 30, total=1 << 37),
    utilization=SimpleNamespace(gpu=75, memory=10),
    temperature=SimpleNamespace(get_sensor=lambda: 41),
)


def system(*devices: Any) -> Any:
    return SimpleNamespace(Device=SimpleNamespace(get_all_devices=lambda: devices))


def test_what_a_gpu_says_is_scraped_and_what_it_does_not_say_is_left_out() -> None:
    metrics = Metrics()
    metrics.gpus = Gpus(lambda: system(WHOLE, Part())).read()
    assert metrics.gpus == [
        GpuState(0, "H200", 1 << 30, 1 << 37, 0.75, 41.0),
        GpuState(1, "H200 MIG 1g.18gb", 5, 10, None, None),
    ]
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("skipvit_gpu")]
    assert lines == [
        'skipvit_gpu_memory_used_bytes{gpu="0",name="H200"} 1.073741824e+09',
        'skipvit_gpu_memory_used_bytes{gpu="1",name="H200 MIG 1g.18gb"} 5.0',
        'skipvit_gpu_memory_total_bytes{gpu="0",name="H200"} 1.37438953472e+11',
        'skipvit_gpu_memory_total_bytes{gpu="1",name="H200 MIG 1g.18gb"} 10.0',
        'skipvit_gpu_utilization_ratio{gpu="0",name="H200"} 0.75',
        'skipvit_gpu_temperature_celsius{gpu="0",name="H200"} 41.0',
    ]


def test_without_a_driver_there_is_one_warning_and_no_gpu(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    asked: list[int] = []

    def no_driver() -> Any:
        asked.append(1)
        raise RuntimeError("libnvidia-ml.so.1 is not here")

    gpus = Gpus(no_driver)
    assert gpus.read() == gpus.read() == []
    assert len(asked) == 1
    assert [record.getMessage() for record in caplog.records] == ["no GPU metrics: libnvidia-ml.so.1 is not here"]


def test_a_gpu_that_is_lost_takes_no_other_metrics_with_it(caplog: pytest.LogCaptureFixture) -> None:
    lost = SimpleNamespace(memory_info=None)  # not even a name
    assert Gpus(lambda: system(lost)).read() == []
    assert "no GPU metrics this time" in caplog.text


def test_the_real_library_is_asked_as_it_is_installed() -> None:
    """On a machine with a GPU it answers, on any other it says why not; it never raises."""
    pytest.importorskip("cuda.core")
    for state in Gpus().read():
        assert state.memory_total is None or state.memory_total > 0
