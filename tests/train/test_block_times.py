"""Predicted speeds are sums of what was measured; what was measured is there. No time is judged."""

import pytest
import torch

from skipvit.models import Spec
from tests.train.tiny_vits import KINDS, noise, parts_of, tiny_vit
from train.block_times import BlockTimes, macs_of, measure_blocks, timed_batch

FULL, HALF, QUARTER = (4, 4), (4, 2), (2, 2)


@pytest.fixture(autouse=True)
def no_gradients():  # type: ignore[no-untyped-def]
    with torch.no_grad():
        yield


def test_a_specs_time_is_the_sum_of_its_pieces() -> None:
    times = BlockTimes(
        depth=4,
        grid=FULL,
        embed=100,
        head=50,
        blocks={("dynamic", FULL): 10, ("static", FULL): 7, ("skip", FULL): 8, ("dynamic", HALF): 5, ("skip", HALF): 4,
                ("dynamic", QUARTER): 3, ("skip", QUARTER): 2},
        pyramids={(FULL, HALF): 0.5, (FULL, QUARTER): 0.4, (HALF, QUARTER): 0.3},
        batch=1,
        clock="none",
    )  # fmt: skip
    assert times.seconds(Spec()) == 190
    assert times.seconds(Spec.parse("static:0 skip:2")) == 150 + 7 + 10 + 8 + 10
    assert times.seconds(Spec.parse("static:0 skip:2 tokens:1/2@1,1/4@3")) == 150 + 7 + 0.5 + 5 + 4 + 0.3 + 3
    assert times.speed(Spec.parse("tokens:1/4@1")) == 190 / (150 + 10 + 0.4 + 9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "norm after"])
def test_every_piece_that_the_search_needs_is_measured(kind: str) -> None:
    parts = parts_of(tiny_vit(kind, torch.float32))
    rounds: list[int] = []
    times = measure_blocks(parts, 2, rounds.append)
    assert set(times.blocks) == {
        ("dynamic", FULL), ("static", FULL), ("skip", FULL), ("dynamic", HALF), ("skip", HALF),
        ("dynamic", QUARTER), ("skip", QUARTER),
    }  # fmt: skip
    assert set(times.pyramids) == {(FULL, HALF), (FULL, QUARTER), (HALF, QUARTER)}
    assert min([times.embed, times.head, *times.blocks.values(), *times.pyramids.values()]) > 0
    assert len(rounds) == 9
    assert torch.get_num_threads() == 1


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = tiny_vit(dtype=torch.float32)
    before = model(noise(2, torch.float32))
    parts = parts_of(model)
    measure_blocks(parts, 2)
    assert torch.equal(model(noise(2, torch.float32)), before)


def test_a_timed_batch_shrinks_with_the_model() -> None:
    parts = parts_of(tiny_vit(dtype=torch.float32))
    assert timed_batch(parts, macs_of(parts)) == 64
    assert timed_batch(parts, 2_000_000_000) == 10
    assert timed_batch(parts, 10**11) == 4
