"""What every test process needs: one torch thread, as they run in parallel, SIGINT as usual, and cheap collections."""

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).resolve().parent

# A shell without job control starts its background with SIGINT ignored, and programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test imports them: OpenMP reads these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# Hypothesis fails an example of 0.2 s, which a busy machine may take for any.
settings.register_profile("at any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("at any speed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """README's commands train models for minutes: they go first, or they would run on alone when all else is done."""
    items.sort(key=lambda item: item.path.parent != TESTS)


def pytest_collection_finish() -> None:
    """All test modules are loaded, and stay: no later collection of garbage looks at the million objects in them."""
    gc.collect()
    gc.freeze()
