"""The compiled resizing gives Pillow's own bytes, and stays away where it cannot."""

import dataclasses
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skipvit import pixel_memory, resampling
from skipvit.native import build
from skipvit.pixel_memory import Pixels
from skipvit.resampling import Compiled, resize

FILTERS = ("box", "bilinear", "bicubic", "lanczos")
COLUMNS_FIRST = ((40, 99), (40, 50))  # of which picture and result Pillow 13 takes the columns first


def library(instructions: int) -> Compiled:
    found = resampling.compiled()
    assert isinstance(found, Compiled), f"{found}; run: python -m skipvit.native.build"
    return dataclasses.replace(found, instructions=min(instructions, found.instructions))


def picture(width: int, height: int, seed: int, hard: bool) -> Image.Image:
    """Noise; hard is black and white only, whose filtered values go beyond eight bits in both directions."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 2, (height, width, 3)) * 255 if hard else random.integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def pillows(image: Image.Image, size: tuple[int, int], interpolation: str, box: resampling.Box) -> Pixels:
    return np.asarray(image.resize(size, Image.Resampling[interpolation.upper()], box=box))


@pytest.fixture
def forgetful() -> Iterator[None]:
    """The library is looked for anew in this test, and after it."""
    resampling.compiled.cache_clear()
    yield
    resampling.compiled.cache_clear()


edge = st.floats(0, 1)


@settings(max_examples=150, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    corners=st.tuples(edge, edge, edge, edge),
    interpolation=st.sampled_from(FILTERS),
    instructions=st.integers(0, 2),
    hard=st.booleans(),
    seed=st.integers(0, 999),
)
def test_bytes_are_pillows(
    sides: tuple[int, int],
    size: tuple[int, int],
    corners: tuple[float, float, float, float],
    interpolation: resampling.Interpolation,
    instructions: int,
    hard: bool,
    seed: int,
) -> None:
    width, height = sides
    left, right = sorted((corners[0] * width, corners[1] * width))
    top, bottom = sorted((corners[2] * height, corners[3] * height))
    # A quarter of a pixel at the least: of a thinner part Pillow makes nothing.
    box = (min(left, width - 0.25), min(top, height - 0.25), max(right, left + 0.25), max(bottom, top + 0.25))
    box = (box[0], box[1], min(box[2], float(width)), min(box[3], float(height)))
    image = picture(width, height, seed, hard)
    found = library(instructions).resize(image, size, interpolation, box)
    if found is None:
        assert height > 100 * width
    else:
        np.testing.assert_array_equal(found, pillows(image, size, interpolation, box))


@pytest.mark.parametrize("instructions", range(3))
@pytest.mark.parametrize("interpolation", FILTERS)
def test_photograph_sizes(instructions: int, interpolation: resampling.Interpolation) -> None:
    for (width, height), side in (((500, 375), 224), ((375, 500), 384), ((90, 640), 224), ((333, 17), 64)):
        image = picture(width, height, side, hard=False)
        box = (0.0, 0.0, float(width), float(height))
        found = library(instructions).resize(image, (side, side), interpolation, box)
        np.testing.assert_array_equal(found, pillows(image, (side, side), interpolation, box))


@pytest.mark.parametrize("sides", [COLUMNS_FIRST[0], (99, 40)])
def test_picture_in_several_pieces_of_memory(sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    before = Image.core.get_block_size()
    try:
        Image.core.set_block_size(4096)  # Pillow's own is 16 MB
        image = picture(*sides, seed=1, hard=True)
    finally:
        Image.core.set_block_size(before)
    with pytest.raises(ValueError, match=r"contiguous|multiple"):
        image.__arrow_c_array__()
    monkeypatch.setattr(pixel_memory, "BAND_BYTES", 1000)
    box = (3.5, 0.0, sides[0] - 2.25, float(sides[1]))
    found = library(2).resize(image, COLUMNS_FIRST[1], "bicubic", box)
    np.testing.assert_array_equal(found, pillows(image, COLUMNS_FIRST[1], "bicubic", box))


def test_each_order_of_the_axes_matters_and_is_found(forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other order gives other bytes: so a Pillow that takes another one is noticed before it is imitated."""
    found = library(2)
    image = picture(*COLUMNS_FIRST[0], seed=2, hard=True)
    box = (0.0, 0.0, 40.0, 99.0)
    other = dataclasses.replace(found, rows_first=lambda *sizes: not found.rows_first(*sizes))
    right, wrong = (each.resize(image, COLUMNS_FIRST[1], "lanczos", (0.5, 0.5, 39.5, 99.0)) for each in (found, other))
    assert not np.array_equal(right, wrong)  # type: ignore[arg-type]
    resampling.compiled.cache_clear()
    for name in ("_rows_first_since_13", "_rows_first_before_13"):
        monkeypatch.setattr(resampling, name, other.rows_first)
    assert resampling.compiled() == "skipvit's own code gives other pixels than this Pillow"
    np.testing.assert_array_equal(resize(image, (24, 24), "lanczos", box), pillows(image, (24, 24), "lanczos", box))


def test_pillow_does_the_work_without_a_library(
    forgetful: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resampling, "LIBRARY", tmp_path / "none.so")
    image, box = picture(30, 20, 3, hard=False), (0.0, 0.0, 30.0, 20.0)
    np.testing.assert_array_equal(resize(image, (8, 9), "bicubic", box), pillows(image, (8, 9), "bicubic", box))
    assert "by Pillow" in resampling.description()
    assert "no C compiler" in resampling.description()


def test_file_that_is_no_library_is_said_and_not_used(
    forgetful: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other.so").write_bytes(f"no library, and {build.fingerprint()}".encode())
    monkeypatch.setattr(resampling, "LIBRARY", tmp_path / "other.so")
    assert "other.so cannot be loaded" in resampling.description()


def test_library_of_other_sources_is_said_and_not_used(
    forgetful: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As after a change to the sources of an editable install, whose bytes may still be Pillow's."""
    sources, target = tmp_path / "sources", tmp_path / "made.so"
    sources.mkdir()
    for name in (*build.SOURCES, *build.HEADERS):
        shutil.copy(build.FOLDER / name, sources)
    monkeypatch.setattr(build, "FOLDER", sources)
    monkeypatch.setattr(resampling, "LIBRARY", target)
    build.compile_library(target)
    assert isinstance(resampling.compiled(), Compiled)
    header = sources / build.HEADERS[0]
    before = header.read_text()
    header.write_text(f"{before}/* changed */\n")
    resampling.compiled.cache_clear()
    assert "made.so is not of the sources beside it; run: python3 -m skipvit.native.build" in resampling.description()
    header.write_text(before)
    resampling.compiled.cache_clear()
    assert isinstance(resampling.compiled(), Compiled)
    (sources / build.SOURCES[0]).unlink()  # as in an installation without sources: there is nothing to compare
    resampling.compiled.cache_clear()
    assert isinstance(resampling.compiled(), Compiled)


def test_pillow_that_does_not_show_its_pixels(forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    assert "as Pillow does since 11.2" in resampling.description()


def test_environment_leaves_it_to_pillow(forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPVIT_RESAMPLING", "pillow")
    assert resampling.compiled() == "SKIPVIT_RESAMPLING says so"


def test_what_only_pillow_does() -> None:
    own = library(2)
    box = (0.0, 0.0, 30.0, 20.0)
    image = picture(30, 20, 4, hard=False)
    assert own.resize(image, (5, 5), "nearest", box) is None
    assert own.resize(image.convert("L"), (5, 5), "bicubic", box) is None
    assert own.resize(picture(1, 101, 5, hard=False), (1, 5), "bicubic", (0.0, 0.0, 1.0, 101.0)) is None
    # A pixel's height, and weights of 40 MB: Pillow may have them, twice would be too much.
    long = Image.new("RGB", (2_000_000, 1))
    assert own.resize(long, (224, 224), "lanczos", (0.0, 0.0, 2e6, 1.0)) is None
    np.testing.assert_array_equal(resize(image, (5, 5), "nearest", box), pillows(image, (5, 5), "nearest", box))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere Pillow's own build may fuse sums")
@pytest.mark.parametrize("fused", ["off", "fast"])
def test_other_rounding_is_not_taken_or_noticed(
    fused: str, forgetful: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A compiler that fuses products and sums gives other weights where a pixel is just on the edge of a filter."""
    if library(2).instructions == 0:
        pytest.skip("this CPU may have no fused sums")
    compiler = shlex.join(build._compiler())
    monkeypatch.setenv("CC", f"{compiler} -mfma")
    target = tmp_path / "fused.so"
    build.compile_library(target)
    if fused == "fast":
        sources = [str(build.FOLDER / name) for name in build.SOURCES]
        options = ["-O3", "-mfma", "-ffp-contract=fast", "-fPIC", "-shared", "-o", str(target)]
        options.append(f'-DSKIPVIT_SOURCES="{build.fingerprint()}"')
        subprocess.run([*shlex.split(compiler), *options, *sources, "-lm"], check=True)
    resampling.compiled.cache_clear()
    monkeypatch.setattr(resampling, "LIBRARY", target)
    assert isinstance(resampling.compiled(), Compiled) == (fused == "off")


def test_library_is_compiled_or_none_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = tmp_path / "made.so"
    build.compile_library(target)
    assert target.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["made.so"]
    monkeypatch.setenv("CC", "false")
    with pytest.raises(build.NotCompiled, match=r"false .* failed"):
        build.compile_library(target)
    assert not list(tmp_path.iterdir())  # an older one would not be what the sources say
    monkeypatch.setenv("CC", str(tmp_path / "nowhere"))
    with pytest.raises(build.NotCompiled, match="cannot be run"):
        build.compile_library(target)
    (target / "a folder").mkdir(parents=True)
    with pytest.raises(build.NotCompiled, match=r"made.so cannot be replaced"):
        build.compile_library(target)
    monkeypatch.delenv("CC")
    target = tmp_path / "other.so"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.NotCompiled, match="no C compiler: none of cc, gcc, clang"):
        build.compile_library(target)
