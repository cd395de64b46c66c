"""Tiles: nothing is lost, nothing depends on order, memory is bounded, and a local operator sees no tile at all."""

import random
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skipvit.tiling import Blender, Plan, plan, reflected, restore

Pixels = npt.NDArray[np.uint8]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    multiple = draw(st.sampled_from([1, 2, 8, 16]))
    tile = multiple * draw(st.integers(1, 6))
    halo = draw(st.integers(0, (tile - multiple) // 2))
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    return plan(height, width, tile, halo, multiple)


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@given(plans())
@settings(deadline=None)
def test_weights_sum_to_one_and_vanish_at_inner_edges(given_plan: Plan) -> None:
    p = given_plan
    for size, origins, weights in ((p.height, p.tops, p.weights[0]), (p.width, p.lefts, p.weights[1])):
        total = np.zeros(origins[-1] + p.tile, np.float32)
        for k, (origin, weight) in enumerate(zip(origins, weights, strict=True)):
            assert weight.min() >= 0
            total[origin : origin + p.tile] += weight
            if k:
                assert origins[k - 1] < origin <= origins[k - 1] + p.tile - 2 * p.halo
                assert not weight[: p.halo // 2].any()
                assert not weights[k - 1][p.tile - p.halo // 2 :].any()
        assert len(total) >= size
        np.testing.assert_array_equal(total, 1)


@given(plans(), st.sampled_from([1, 3]), st.integers(0, 99))
@settings(deadline=None)
def test_identity_is_bit_exact_in_any_order_of_completion(given_plan: Plan, channels: int, seed: int) -> None:
    picture = noise(given_plan.height, given_plan.width, channels)
    blender = Blender(given_plan, channels)
    result = np.zeros_like(picture)
    covered = np.zeros(picture.shape[:2], int)
    tiles = list(given_plan)
    random.Random(seed).shuffle(tiles)
    for tile in tiles:
        assert not blender.complete
        for top, left, pixels in blender.add(tile, given_plan.cut(picture, tile)):
            part = np.s_[top : top + pixels.shape[0], left : left + pixels.shape[1]]
            result[part] = pixels
            covered[part] += 1
    assert blender.complete
    np.testing.assert_array_equal(result, picture)
    np.testing.assert_array_equal(covered, 1)


@given(st.integers(1, 2000), st.integers(1, 3000))
@example(2000, 3000)
@example(1, 3000)
@example(2000, 1)
@settings(max_examples=6, deadline=None)
def test_large_pictures_come_back_as_they_were(height: int, width: int) -> None:
    picture = noise(height, width)
    p = plan(height, width, 256, 32, 32)
    np.testing.assert_array_equal(restore(picture, p, lambda tile: tile), picture)


@given(plans(), st.integers(0, 99))
@settings(deadline=None)
def test_blended_tiles_do_not_depend_on_their_order(given_plan: Plan, seed: int) -> None:
    """Tiles that disagree about their overlaps, so that only exact sums can give the same bits."""
    outputs = {tile: noise(given_plan.tile, given_plan.tile) // (1 + k % 3) for k, tile in enumerate(given_plan)}

    def blended(order: list[int]) -> Pixels:
        blender, result = Blender(given_plan), np.zeros((given_plan.height, given_plan.width, 3), np.uint8)
        tiles = list(given_plan)
        for k in order:
            for top, left, pixels in blender.add(tiles[k], outputs[tiles[k]]):
                result[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return result

    forth = list(range(len(given_plan)))
    mixed = random.Random(seed).sample(forth, len(forth))
    np.testing.assert_array_equal(blended(forth), blended(mixed))


def box_filter(picture: npt.NDArray[np.float64], radius: int) -> npt.NDArray[np.float64]:
    """Mean over a square; beyond the edges the picture is reflected."""
    height, width = picture.shape[:2]
    ys = reflected(np.arange(-radius, height + radius), height)
    xs = reflected(np.arange(-radius, width + radius), width)
    padded = picture[ys[:, np.newaxis], xs]
    span = range(2 * radius + 1)
    return sum(padded[i : i + height, j : j + width] for i in span for j in span) / len(span) ** 2


@pytest.mark.parametrize(("height", "width"), [(17, 200), (200, 200), (131, 77), (64, 64), (65, 129)])
def test_tiled_is_whole_for_an_operator_that_looks_half_a_halo_far(height: int, width: int) -> None:
    picture = noise(height, width).astype(np.float64)
    p = plan(height, width, 64, 16, 8)
    # Whole-picture models pad to their multiple too: the padding is part of what must agree at the far edges.
    tiled = restore(picture, p, lambda tile: box_filter(tile, 8), "float32")
    padded = picture[
        reflected(np.arange(p.tops[-1] + 64), height)[:, np.newaxis], reflected(np.arange(p.lefts[-1] + 64), width)
    ]
    whole = box_filter(padded, 8)[:height, :width]
    np.testing.assert_allclose(tiled, whole, atol=1e-4)


def test_a_model_that_errs_at_its_edges_leaves_no_seam() -> None:
    """A brightness that drifts within every tile may shift a gradient, but must not step where tiles meet."""
    height = width = 300
    gradient = np.broadcast_to(np.linspace(60, 180, width), (height, width))[:, :, np.newaxis].copy()
    p = plan(height, width, 96, 24, 8)
    drift = np.linspace(-6, 6, 96)[np.newaxis, :, np.newaxis]
    tiled = restore(gradient, p, lambda tile: tile + drift, "float32")[150, :, 0]
    slope = np.diff(gradient[150, :, 0])[0] + np.diff(drift[0, :, 0])[0]
    # 12 grey levels between two neighbours' edges, over a takeover of 24 pixels whose steepest slope is 1.5 / 24.
    assert np.abs(np.diff(tiled) - slope).max() < 12 * 1.5 / 24 * 1.2


def windows(p: Plan, ahead: int) -> Iterator[int]:
    """Rows of sums held while up to ``ahead`` tiles are in flight and the oldest comes back last."""
    blender, tiles, flight = Blender(p), iter(p), []
    pixels = np.zeros((p.tile, p.tile, 3), np.uint8)
    pending = next(tiles, None)
    while pending or flight:
        if pending and len(flight) < ahead and blender.has_room(pending):
            flight.append(pending)
            pending = next(tiles, None)
        else:
            blender.add(flight.pop(), pixels)  # the newest first
            yield sum(band.nbytes for band in blender._sums.values())
    assert blender.complete


@pytest.mark.parametrize("size", [(400, 3000), (3000, 400), (1500, 1500)])
@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_two_bands_across_the_shorter_side_are_held_at_most(size: tuple[int, int], ahead: int) -> None:
    p = plan(*size, 128, 16, 32)
    # The band that is finished hands its overlap on before it is dropped.
    assert max(windows(p, ahead)) <= 2 * 128 * min(size) * 3 * 4


def test_the_number_of_tiles_of_a_large_photograph() -> None:
    p = plan(4000, 6000, 256, 32, 32)
    assert (len(p.tops), len(p.lefts)) == (21, 31)
    assert len(p) == 651
    assert [tile.band for tile in p] == sorted(tile.band for tile in p)
    assert all(origin % 32 == 0 for origin in p.tops + p.lefts)


def test_a_strip_can_be_written_over_the_picture_that_is_still_being_cut() -> None:
    picture = noise(200, 330)
    p = plan(200, 330, 64, 12, 8)
    expected = restore(picture, p, lambda tile: 255 - tile)
    blender = Blender(p)
    for tile in p:
        for top, left, pixels in blender.add(tile, 255 - p.cut(picture, tile)):
            picture[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 64, 8, 8), "1 x 1"),
        ((5, 5, 60, 8, 8), "multiple of the model's 8"),
        ((5, 5, 64, 30, 8), "smaller halo"),
        ((5, 5, 64, -1, 8), "smaller halo"),
        ((5, 5, 0, 0, 1), "multiple"),
    ],
)
def test_what_cannot_be_tiled_is_refused(arguments: tuple[int, int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*arguments)


def test_a_blender_refuses_what_is_no_tile_of_its_plan() -> None:
    p = plan(100, 100, 64, 8, 8)
    blender, first = Blender(p), next(iter(p))
    with pytest.raises(ValueError, match="64, 64, 3"):
        blender.add(first, np.zeros((32, 64, 3), np.uint8))
    blender.add(first, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="twice"):
        blender.add(first, np.zeros((64, 64, 3), np.uint8))
