"""What NVIDIA's management library says of the GPUs, asked when metrics are scraped and a model runs on one."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU now: bytes, a share from 0 to 1, degrees Celsius; None where this GPU or driver does not say."""

    index: int
    name: str
    memory_used: int | None
    memory_total: int | None
    utilization: float | None
    temperature: float | None


def open_system() -> Any:
    """cuda-core's view of the machine, which needs the driver and no context on a GPU."""
    from cuda.core import system

    system.get_num_devices()  # fails here rather than at every scrape where there is no driver
    return system


class Gpus:
    """Reads all GPUs that the process can see; without cuda-core or a driver there are none, and nothing fails."""

    def __init__(self, open_system: Callable[[], Any] = open_system) -> None:
        self._open_system = open_system
        self._system: Any = None
        self._missing = False

    def read(self) -> list[GpuState]:
        """The state of every GPU; takes some milliseconds, so call it in a thread."""
        if self._system is None and not self._missing:
            try:
                self._system = self._open_system()
            except Exception as error:  # no package, no driver, or a broken one: each has an error of its own
                self._missing = True
                logger.warning("no GPU metrics: %s", error)
        if self._system is None:
            return []
        try:
            return [_state(device) for device in self._system.Device.get_all_devices()]
        except Exception as error:  # a GPU that fell off its bus must not take the other metrics with it
            logger.warning("no GPU metrics this time: %s", error)
            return []


def _state(device: Any) -> GpuState:
    def ask(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception:  # "not supported", as utilization is on a part of a GPU, is an answer too
            return None

    memory = ask(lambda: device.memory_info)
    utilization = ask(lambda: device.utilization.gpu)
    return GpuState(
        device.index,
        str(device.name),
        memory and memory.used,
        memory and memory.total,
        None if utilization is None else utilization / 100,
        ask(lambda: device.temperature.get_sensor()),
    )
