"""Is there a GPU, and which: asked before an engine is built for it, or run on it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU of this machine; ``capability`` is its compute capability, such as (9, 0)."""

    name: str
    capability: tuple[int, int]


def find_gpu() -> Gpu | None:
    """The GPU that engines are built for here, or None where there is no GPU, no driver, or no cuda-core."""
    try:
        from cuda.core import Device

        device = Device(0)
        device.set_current()
        capability = device.compute_capability
        return Gpu(str(device.name), (int(capability.major), int(capability.minor)))
    except Exception:  # cuda-core has an error class of its own for each way of not finding a GPU
        return None
