"""Optimisation profiles from the manifest and from flags, and the flags' own syntax."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.engine_arguments import Profile, batches_arg, shape_arg
from export.engine_graph import Graph, GraphError
from export.engine_shapes import profiles
from skipvit.manifest import Manifest, Task, Tensor, Tiling
from skipvit.transforms import Preprocessing


def graph(**inputs: tuple[int | None, ...]) -> Graph:
    return Graph(Path("model.onnx"), "0" * 64, {name: ("uint8", axes) for name, axes in inputs.items()}, {}, "fp32")


def manifest(task: Task, tiling: Tiling | None = None) -> Manifest:
    return Manifest(
        name="x", version=1, task=task, architecture="x", weights_from="", created="", commit="", versions={},
        inputs=(Tensor(name="images", dtype="uint8", shape=("batch", 8, 8, 3)),),
        outputs=(Tensor(name="y", dtype="float32", shape=("batch", 4)),),
        preprocessing=Preprocessing(height=8, width=8) if task == "classification" else None,
        tiling=tiling, models={"fp32": "model.onnx"}, files={"model.onnx": ""}, parity=(), macs=0, params=0,
    )  # fmt: skip


CASES: list[tuple[Task, Tiling | None, tuple[int | None, ...], Profile]] = [
    ("classification", None, (None, 8, 8, 3), Profile((1, 8, 8, 3), (8, 8, 8, 3), (64, 8, 8, 3))),
    (
        "denoising",
        Tiling(tile=64, halo=8, multiple=32),
        (None, None, None, 3),
        Profile((1, 64, 64, 3), (4, 64, 64, 3), (8, 64, 64, 3)),
    ),
    (
        "video-denoising",
        Tiling(tile=48, halo=8, multiple=16, frames=5),
        (None, 5, None, None, 4),
        Profile((1, 5, 48, 48, 4), (1, 5, 48, 48, 4), (2, 5, 48, 48, 4)),
    ),
    (
        "video-denoising",
        Tiling(tile=48, halo=8, multiple=16, frames=5),
        (None, None, None, None, 4),
        Profile((1, 5, 48, 48, 4), (1, 5, 48, 48, 4), (2, 5, 48, 48, 4)),
    ),
]


@pytest.mark.parametrize(("task", "tiling", "axes", "expected"), CASES)
def test_the_manifest_says_which_shapes(
    task: Task, tiling: Tiling | None, axes: tuple[int | None, ...], expected: Profile
) -> None:
    found = profiles(graph(images=axes), manifest(task, tiling), None, {})
    assert found == {"images": expected}
    batches = profiles(graph(images=axes), manifest(task, tiling), (2, 3, 5), {})["images"]
    assert [shape[0] for shape in batches] == [2, 3, 5]
    assert batches.usual[1:] == expected.usual[1:]


def test_an_input_of_fixed_shape_needs_nothing() -> None:
    assert profiles(graph(x=(4, 7)), None, None, {}) == {"x": Profile((4, 7), (4, 7), (4, 7))}
    found = profiles(graph(x=(None, 7), table=(4, 7)), None, (1, 2, 3), {})
    assert found == {"x": Profile((1, 7), (2, 7), (3, 7)), "table": Profile((4, 7), (4, 7), (4, 7))}
    assert profiles(graph(x=()), None, None, {}) == {"x": Profile((), (), ())}


def test_a_shape_on_the_command_line_goes_before_all() -> None:
    given_shape = Profile((1, 32, 32, 3), (2, 64, 96, 3), (4, 128, 128, 3))
    tiling = Tiling(tile=64, halo=8, multiple=32)
    found = profiles(
        graph(images=(None, None, None, 3)), manifest("denoising", tiling), (1, 9, 9), {"images": given_shape}
    )
    assert found == {"images": given_shape}


@pytest.mark.parametrize(
    ("axes", "shapes", "message"),
    [
        (
            (None, None, 3),
            {},
            r"input x is \?x\?x3, and only its first axis can be filled from --batch; give --shape x=",
        ),
        ((None, 3), {"y": ((1, 3),) * 3}, "has no input 'y', only x"),
        ((None, 3), {"x": ((1, 4),) * 3}, r"input x is \?x3, which 1x4 does not fit"),
        ((None, 3), {"x": ((1, 3, 3),) * 3}, r"input x is \?x3, which 1x3x3 does not fit"),
        ((None, 3), {"x": ((4, 3), (2, 3), (8, 3))}, "must grow from left to right in every axis"),
        ((None, 3), {"x": ((1, 3), (1, 3), (2**30, 3))}, r"over 2\^31 values"),
    ],
)
def test_shapes_that_cannot_be_are_refused(axes: tuple[int | None, ...], shapes: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        profiles(graph(x=axes), None, None, {name: Profile(*profile) for name, profile in shapes.items()})


def test_batches_that_no_input_takes_are_refused() -> None:
    with pytest.raises(GraphError, match=r"has inputs of fixed batches \(x 4x7\); leave --batch out"):
        profiles(graph(x=(4, 7)), None, (1, 2, 3), {})
    with pytest.raises(GraphError, match="has no input"):
        profiles(graph(), None, None, {})


def test_sides_of_a_denoiser_are_multiples() -> None:
    tiling = Tiling(tile=64, halo=8, multiple=32)
    wrong = {"images": Profile((1, 32, 32, 3), (1, 64, 64, 3), (1, 100, 96, 3))}
    with pytest.raises(GraphError, match="height and width are multiples of 32, which 1x100x96x3 is not"):
        profiles(graph(images=(None, None, None, 3)), manifest("denoising", tiling), None, wrong)


@given(st.lists(st.integers(1, 999), min_size=3, max_size=3).map(sorted))
def test_batches_are_read_back(sizes: list[int]) -> None:
    assert list(batches_arg(",".join(map(str, sizes)))) == sizes


@given(st.lists(st.lists(st.integers(1, 9999), min_size=2, max_size=2), min_size=3, max_size=3))
def test_shapes_are_read_back(shapes: list[list[int]]) -> None:
    name, profile = shape_arg("a.b=" + ":".join("x".join(map(str, shape)) for shape in shapes))
    assert name == "a.b"
    assert [list(shape) for shape in profile] == shapes


def test_one_stands_for_all_three() -> None:
    assert batches_arg("7") == (7, 7, 7)
    assert shape_arg("x=2x3") == ("x", Profile((2, 3), (2, 3), (2, 3)))


@pytest.mark.parametrize("text", ["", "0", "1,2", "3,2,1", "1,2,x", "1,2,3,4", "-1,1,1", "1,2,9999999"])
def test_batches_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="needs MIN"):
        batches_arg(text)


@pytest.mark.parametrize("text", ["", "x", "x=", "=1x2", "x=1x", "x=1:2", "x=0x1", "x=1x2:1x2:1x2:1x2", "x=axb"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="needs INPUT=MIN"):
        shape_arg(text)
