"""Freed pictures leave the process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Freeing 24 MB teaches glibc to take the next 12 MB from its heap, where the block behind them keeps them for good.
CODE = """
from serve.heap import return_large_blocks
import numpy as np

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if {wanted}:
    assert return_large_blocks()
before = resident()
np.ones(24 << 20, np.uint8)
large = np.ones(12 << 20, np.uint8)
behind = np.ones(600 << 10, np.uint8)
del large
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this knob, and this habit")
def test_a_large_block_is_returned_when_it_is_freed() -> None:
    held = {}
    for wanted in (False, True):
        run = [sys.executable, "-c", CODE.format(wanted=wanted)]
        held[wanted] = int(subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert held[True] < 3 << 20
    assert held[False] > held[True] + (8 << 20)
