"""What engines are compared on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.engine_arguments import Profile
from export.engine_inputs import as_served, inputs_for
from export.engine_target import open_target
from skipvit.artifacts import read_entry
from tests.export.tiny_entry import of_any_size
from tests.serve.denoisers import write_denoiser
from tests.serve.video_denoisers import write_video_denoiser


def test_a_graph_of_any_size_is_compared_on_rows_of_the_usual_one(tmp_path: Path) -> None:
    onnx.save(of_any_size(scalar=False), tmp_path / "net.onnx")
    target = open_target(tmp_path / "net.onnx", None, None, None)
    found = inputs_for(target, {"x": Profile((1, 4), (3, 8), (5, 16))}, None)
    assert [batch["x"].shape for batch in found.batches] == [(1, 8), (3, 8)]
    assert (found.images, found.source, found.real) == (4, "4 random inputs", False)


@pytest.mark.parametrize("write", [write_denoiser, write_video_denoiser])
def test_denoisers_are_compared_on_tiles_of_their_profile(write: Callable[[Path], Path], tmp_path: Path) -> None:
    entry = read_entry(tmp_path, write(tmp_path).parent.name)
    target = open_target(entry.folder, None, None, None)
    tile, axes = entry.tiling.tile, len(entry.manifest.inputs[0].shape)
    row = (*((entry.tiling.frames,) if axes == 5 else ()), tile, tile, 4 if axes == 5 else 3)
    (name,) = target.graph.inputs
    found = inputs_for(target, {name: Profile((2, *row), (2, *row), (4, *row))}, None)
    assert [batch[name].shape for batch in found.batches] == [(2, *row), (3, *row)]
    assert all(batch[name].dtype == np.uint8 and len(np.unique(batch[name])) > 50 for batch in found.batches)
    assert found.real is bool(entry.manifest.samples)


@pytest.mark.parametrize("write", [write_denoiser, write_video_denoiser])
def test_denoisers_are_compared_on_the_tiles_that_a_server_runs(write: Callable[[Path], Path], tmp_path: Path) -> None:
    entry = read_entry(tmp_path, write(tmp_path).parent.name)
    target = open_target(entry.folder, None, None, None)
    tile, around = entry.tiling.tile, entry.manifest.inputs[0].shape
    frames = (entry.tiling.frames,) if len(around) == 5 else ()

    def shape(batch: int, side: int) -> tuple[int, ...]:
        return (batch, *frames, side, side, 4 if frames else 3)

    (name,) = target.graph.inputs
    wide = {name: Profile(shape(1, tile // 2), shape(2, tile // 2), shape(4, tile * 2))}
    assert as_served(target, wide) == {name: wide[name]._replace(usual=shape(2, tile))}
    narrow = {name: Profile(shape(1, tile * 2), shape(2, tile * 2), shape(4, tile * 4))}
    assert as_served(target, narrow) == narrow, "no server runs it"
