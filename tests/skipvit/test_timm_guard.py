"""timm imports beside every mixture of torch and torchvision builds, and a missing torchvision is named."""

import subprocess
import sys
from pathlib import Path

import pytest

GUARD = Path(__file__).resolve().parents[2] / "skipvit" / "models" / "timm_guard.py"
NEEDS_OPS = """
import torch
if not hasattr(torch.ops.torchvision, "nms") or not hasattr(torch.ops.torchvision, "qnms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""


def run_guard(folder: Path, torchvision: str | None) -> subprocess.CompletedProcess[str]:
    """The guard over a stand-in for timm, and for torchvision unless None hides it."""
    (folder / "timm.py").write_text("import torchvision\nprint('timm imported')\n")
    hide = "sys.modules['torchvision'] = None" if torchvision is None else ""
    if torchvision is not None:
        (folder / "torchvision").mkdir()
        (folder / "torchvision" / "__init__.py").write_text(torchvision)
    code = f"import runpy, sys; sys.path.insert(0, {str(folder)!r}); {hide}\nrunpy.run_path({str(GUARD)!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("torchvision", ["", NEEDS_OPS], ids=["fitting build", "CUDA build beside CPU torch"])
def test_timm_imports(tmp_path: Path, torchvision: str) -> None:
    done = run_guard(tmp_path, torchvision)
    assert done.stdout == "timm imported\n", done.stderr


def test_other_failures_of_torchvision_are_not_hidden(tmp_path: Path) -> None:
    done = run_guard(tmp_path, "raise RuntimeError('driver on fire')")
    assert "driver on fire" in done.stderr
    assert done.returncode == 1


def test_a_missing_torchvision_is_named(tmp_path: Path) -> None:
    done = run_guard(tmp_path, None)
    assert "timm needs torchvision, which is not installed; run: pip install 'skipvit[model]'" in done.stderr
