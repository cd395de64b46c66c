"""Freed tensors stay with the process that trains, and only there."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np, psutil
from train.heap import keep_large_blocks
if sys.argv[1] == "keep":
    assert keep_large_blocks()
block = np.ones(128 << 20, np.uint8)
before = psutil.Process().memory_info().rss
del block
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own settings")
@pytest.mark.parametrize(("how", "given_back_mb"), [("keep", 0), ("leave", 128)])
def test_a_freed_block_is_kept_where_asked(how: str, given_back_mb: int) -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    assert int(found.stdout) / 2**20 == pytest.approx(given_back_mb, abs=8)
