"""The number that says which plugins an engine was built with."""

import shutil
from pathlib import Path

import pytest

from trt_plugins import sources


@pytest.mark.parametrize(
    ("file", "changes"),
    [("kernels/eca_gate.cu", True), ("kernels/device.cuh", True), ("operators/eca_gate.py", True),
     ("on_device.py", True), ("session.py", False), ("README.md", False)],
)  # fmt: skip
def test_what_a_kernel_comes_from_counts(
    file: str, changes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "trt_plugins"
    shutil.copytree(Path(sources.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = sources.sources_hash()
    monkeypatch.setattr(sources, "__file__", str(copy / "sources.py"))
    assert sources.sources_hash() == before
    (copy / file).write_text((copy / file).read_text() + "\n")
    assert (sources.sources_hash() != before) is changes
