"""Patches: where they come from, that a pair stays one, and that they follow from their key."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.batches import Key
from train.noise import Gaussian, Levels
from train.patches import TrainingPatches, shares
from train.photographs import Kept, Pair
from train.pictures import DataError


@dataclass(frozen=True)
class Numbered:
    """Pictures in which every pixel of every channel is another number, modulo 251; ``noisy`` is 255 less it."""

    sizes: tuple[tuple[int, int], ...] = ((11, 14), (9, 20))
    paired: bool = False
    names: tuple[str, ...] = ("one", "two")
    weights: npt.NDArray[np.float64] = field(default_factory=lambda: np.array([1.0, 3.0]))

    def open(self, index: int) -> Pair:
        height, width = self.sizes[index]
        numbers = (np.arange(height * width * 3) % 251).astype(np.uint8).reshape(height, width, 3)
        return Pair(numbers, 255 - numbers if self.paired else None)


def patches(paired: bool = False, **changes: object) -> TrainingPatches:
    noise = None if paired else Gaussian(Levels((0.0,)))
    made = TrainingPatches(Kept(Numbered(paired=paired), 1 << 20), 8, 40, 7, noise, False, False)
    return replace(made, **changes)  # type: ignore[arg-type]


def as_pixels(clean: object) -> np.ndarray:
    return clean.permute(1, 2, 0).numpy()  # type: ignore[attr-defined]


def variants(pixels: np.ndarray, channels: bool) -> list[bytes]:
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)] if channels else [(0, 1, 2)]
    turned = [np.rot90(p, k) for p in (pixels, pixels[:, ::-1]) for k in range(4)]
    return [np.ascontiguousarray(t[:, :, list(order)]).tobytes() for t in turned for order in orders]


def test_a_patch_is_cut_out_of_the_picture_and_all_places_have_their_turn() -> None:
    found, every = set(), patches()
    for position in range(400):
        noisy, clean = every[Key(0, position, 0)]
        assert noisy.dtype.is_floating_point
        assert (noisy * 255).round().eq(clean).all(), "with noise of 0"
        pixels, source = as_pixels(clean), Numbered().open(0).clean
        windows = np.lib.stride_tricks.sliding_window_view(source, (8, 8, 3))[:, :, 0]
        found |= {tuple(place) for place in np.argwhere((windows == pixels).all(axis=(2, 3, 4)))}
    assert found == {(top, left) for top in range(4) for left in range(7)}


@pytest.mark.parametrize("channels", [False, True])
def test_both_of_a_pair_are_turned_alike_and_in_all_ways(channels: bool) -> None:
    exact = replace(patches(paired=True), size=9, turn=True, permute_channels=channels)
    kept = replace(exact.kept, photographs=Numbered(paired=True, sizes=((9, 9), (9, 9))), held={})
    seen, allowed = set(), variants(Numbered(sizes=((9, 9), (9, 9))).open(0).clean, channels)
    for position in range(400):
        noisy, clean = replace(exact, kept=kept)[Key(1, position, 0)]
        assert (255 - (noisy * 255).round()).eq(clean).all()
        seen.add(np.ascontiguousarray(as_pixels(clean)).tobytes())
    assert seen == set(allowed)
    assert len(seen) == (48 if channels else 8)


def test_patch_follows_from_its_key_alone() -> None:
    loud = patches(noise=Gaussian(Levels((5.0, 50.0), between=True)), turn=True, permute_channels=True)
    keys = [Key(epoch, position, position) for epoch in range(2) for position in range(4)]
    forward = {key: loud[key] for key in keys}
    again = patches(noise=loud.noise, turn=True, permute_channels=True)
    for key in reversed(keys):
        assert all(one.equal(other) for one, other in zip(forward[key], again[key], strict=True))
    assert len({forward[key][0].numpy().tobytes() for key in keys}) == len(keys), "and differs from key to key"
    assert not replace(loud, seed=8)[keys[0]][0].equal(forward[keys[0]][0])


def test_picture_smaller_than_a_patch_is_named() -> None:
    with pytest.raises(DataError, match=r"one is 14 x 11 pixels, smaller than a patch of 12; .* lower data.patch"):
        patches(size=12)[Key(0, 0, 0)]


@given(
    weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=30),
    count=st.integers(1, 500),
)
def test_pictures_have_the_share_that_their_weights_say(weights: list[float], count: int) -> None:
    drawn = shares(np.array(weights), count)
    assert drawn.shape == (count,)
    assert (np.diff(drawn) >= 0).all()
    expected = np.array(weights) / sum(weights) * count
    assert (np.abs(np.bincount(drawn, minlength=len(weights)) - expected) <= 1 + 1e-6).all()


def test_as_many_patches_as_pictures_of_one_weight_are_one_of_each() -> None:
    assert shares(np.ones(320), 320).tolist() == list(range(320))
    assert np.bincount(patches().photograph_of).tolist() == [10, 30]
