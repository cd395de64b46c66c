"""The order of pictures, and the random numbers that go with it."""

import random
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from train.batches import Key, Order, TrainingPictures, epoch_order, glyph_numbers, load, seed_everything, seed_step


def keys(**changes: Any) -> list[list[Key]]:
    return list(Order(**{"pictures": 100, "batch": 12, "seed": 3, "stop": 20, **changes}))


def test_an_epoch_sees_no_picture_twice() -> None:
    order = Order(pictures=100, batch=12, seed=3, stop=16)
    assert order.steps_per_epoch == 8
    first, second = list(order)[:8], list(order)[8:]
    for epoch, batches in enumerate((first, second)):
        seen = [key.picture for key in chain.from_iterable(batches)]
        assert len(seen) == len(set(seen)) == 96
        assert {key.epoch for key in chain.from_iterable(batches)} == {epoch}
        assert [key.position for key in chain.from_iterable(batches)] == list(range(96))
    assert [k.picture for k in chain.from_iterable(first)] != [k.picture for k in chain.from_iterable(second)]


def test_order_depends_on_the_seed_only() -> None:
    assert keys() == keys()
    assert keys() != keys(seed=4)


@pytest.mark.parametrize("start", [1, 7, 8, 19])
def test_a_resumed_order_goes_on_where_it_was(start: int) -> None:
    assert keys(start=start) == keys()[start:]


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 3), (2, 3), (4, 1)])
def test_processes_and_parts_share_the_same_batches(world: int, accumulate: int) -> None:
    shares = [keys(rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    for step, whole in enumerate(keys()):
        parts = [share[step * accumulate + part] for share in shares for part in range(accumulate)]
        assert {len(part) for part in parts} == {12 // world // accumulate}
        assert list(chain.from_iterable(parts)) == whole


def test_length_counts_the_parts() -> None:
    order = Order(pictures=100, batch=12, seed=3, start=2, stop=20, accumulate=3)
    assert len(order) == len(list(order)) == 54


def test_repeats_show_fewer_pictures_several_times() -> None:
    order = epoch_order(90, seed=0, epoch=0, repeats=3)
    assert len(order) == 90
    assert set(np.bincount(order, minlength=90)) == {0, 3}


class Noise:
    """A source whose transform draws from every generator that an augmentation may use."""

    labels = np.arange(20)

    def open(self, index: int) -> Image.Image:
        return Image.new("RGB", (1, 1), (index, 0, 0))


def noisy(image: Image.Image) -> Tensor:
    return torch.stack([torch.tensor(random.random()), torch.tensor(np.random.rand()).float(), torch.rand(())])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_is_distorted_by_its_place_not_by_who_decodes_it(workers: int) -> None:
    pictures = TrainingPictures(Noise(), noisy, seed=5)
    order = Order(pictures=20, batch=5, seed=5, start=1, stop=6)
    found = torch.cat([batch for batch, _ in load(pictures, order, workers, pin=False)])
    expected = torch.stack([pictures[key][0] for key in chain.from_iterable(order)])
    assert torch.equal(found, expected)
    assert len(torch.unique(found)) == found.numel()


def test_labels_come_with_their_pictures() -> None:
    order = Order(pictures=20, batch=5, seed=1, stop=1)
    _, labels = next(load(TrainingPictures(Noise(), noisy, seed=1), order, 0, pin=False))
    assert labels.tolist() == [key.picture for key in next(iter(order))]


def test_seeding_covers_all_generators_and_separates_keys() -> None:
    def draw(*key: int) -> tuple[float, float, float]:
        seed_everything(*key)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert draw(1, 2) == draw(1, 2)
    drawn = [draw(*key) for key in ((0, 0), (0, 1), (1, 0), (0, 0, 1))]
    assert all(len({d[i] for d in drawn}) == 4 for i in range(3))


def test_steps_parts_and_ranks_draw_different_numbers() -> None:
    found = []
    for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        seed_step(0, *place)
        found.append(torch.rand(()).item())
    assert len(set(found)) == 4


def test_glyph_numbers_are_uniform_and_follow_the_step() -> None:
    u = glyph_numbers(0, 5, 1000, 16)
    assert u.shape == (1000, 16)
    assert torch.equal(u, glyph_numbers(0, 5, 1000, 16))
    assert not torch.equal(u, glyph_numbers(0, 6, 1000, 16))
    assert 0 <= u.min() < 0.01
    assert 0.99 < u.max() < 1
