"""The search, on a ViT that was trained for a few seconds: its proposal against specs drawn at random."""

import statistics
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from skipvit.models import Spec
from skipvit.models.spec import Reduction
from skipvit.origin import resolve
from tests.train.tiny_vits import noise, parts_of, tiny_vit
from train.analysis_pictures import choose_pictures
from train.attention_statistics import Accumulator
from train.block_times import BlockTimes
from train.probes import SHARES, Cost, Original, Probe, probe_layers
from train.run import main as train
from train.spec_search import Candidate, Found, SpecSearch, neighbours, pareto
from train.vit_parts import VitParts, check_spec

RECIPE = """
[model]
name = "vit_micro_patch2_8"
args = { embed_dim = 32, depth = 6, num_heads = 2 }
[data]
uri = "builtin:digits"
image_size = 8
resize = "squash"
interpolation = "box"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[optim]
lr = 3e-3
clip_norm = 1.0
[schedule]
epochs = 11
warmup_epochs = 1
[run]
batch = 64
device = "cpu"
threads = 1
"""
GRIDS = [(4, 4), (4, 2), (2, 2)]
# A GPU's or a large model's proportions: on 17 tokens of 32 channels, a CPU mostly measures Python.
TIMES = BlockTimes(
    depth=6,
    grid=GRIDS[0],
    embed=0.2,
    head=0.1,
    blocks={("dynamic", g): 1.0 * g[0] * g[1] / 16 for g in GRIDS}
    | {("skip", g): 0.95 * g[0] * g[1] / 16 for g in GRIDS}
    | {("static", GRIDS[0]): 0.85},
    pyramids={(a, b): 0.02 for a in GRIDS for b in GRIDS if a != b},
    batch=1,
    clock="made up",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    folder = tmp_path_factory.mktemp("vit")
    (folder / "vit.toml").write_text(RECIPE)
    torch.set_num_threads(1)
    assert train([str(folder / "vit.toml"), "--out", str(folder / "run")]) == 0
    origin = resolve(str(folder / "run"), None, False, {})
    parts = VitParts(origin.model, origin.preprocessing)
    chosen = choose_pictures("builtin:digits", origin.labels, origin.preprocessing, 360)
    accumulator = Accumulator(parts.depth, True, 0)
    with torch.inference_mode():
        parts.watch(parts.images(chosen.pixels(0, 360)), accumulator.see)
        images, labels = parts.images(chosen.pixels(0, 180)), chosen.labels(0, 180)
        found = Original(parts, images, accumulator.finish().mean_map, labels)
    assert found.accuracy is not None
    assert found.accuracy > 0.7, "an untrained ViT has nothing to lose"
    return found


@pytest.fixture(scope="module")
def probes(original: Original) -> dict[Probe, list[Cost | None]]:
    with torch.inference_mode():
        return probe_layers(original)


@pytest.fixture(scope="module")
def found(original: Original, probes: dict[Probe, list[Cost | None]]) -> Found:
    with torch.inference_mode():
        return SpecSearch(original, probes, TIMES, 1.5, 200).run()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def random_specs(parts: VitParts, times: BlockTimes, speed: float, count: int) -> list[Spec]:
    """Valid specs of a predicted speed from ``speed`` to 5 % more."""
    rng, specs = np.random.default_rng(0), []
    while len(specs) < count:
        kinds = rng.choice(["dynamic", "static", "skip"], parts.depth, p=[0.5, 0.25, 0.25])
        tokens = [Reduction(int(rng.integers(1, parts.depth)), share) for share in SHARES if rng.random() < 0.6]
        try:
            spec = Spec(
                static=tuple(int(i) for i in np.flatnonzero(kinds == "static")),
                skip=tuple(int(i) for i in np.flatnonzero(kinds == "skip")),
                tokens=tuple(tokens),
            )
            check_spec(parts, spec)
            if speed <= times.speed(spec) <= 1.05 * speed and spec not in specs:
                specs.append(spec)
        except ValueError:
            continue
    return specs


def test_the_proposal_is_closer_to_the_original_than_random_specs_as_fast(original: Original, found: Found) -> None:
    assert found.reached
    proposal = found.proposal
    drawn = [original.cost(spec).kl for spec in random_specs(original.parts, TIMES, 1.5, 10)]
    assert proposal.cost.kl <= min(drawn)
    assert proposal.cost.kl < 0.6 * statistics.median(drawn)


def test_the_proposal_can_be_built_and_costs_what_was_said(original: Original, found: Found) -> None:
    proposal = found.proposal
    check_spec(original.parts, proposal.spec)
    assert proposal.speed == TIMES.speed(proposal.spec) >= 1.5
    assert original.cost(proposal.spec).kl == pytest.approx(proposal.cost.kl, abs=1e-6)
    assert Spec.parse(str(proposal.spec)) == proposal.spec


def test_the_curve_rises_in_speed_and_in_cost(found: Found) -> None:
    assert found.curve[0].spec == Spec()
    speeds, costs = [c.speed for c in found.curve], [c.cost.kl for c in found.curve]
    assert speeds == sorted(set(speeds))
    assert costs == sorted(set(costs))
    assert found.proposal in found.curve
    assert found.evaluations <= 200


def test_looking_further_never_makes_it_worse(
    original: Original, probes: dict[Probe, list[Cost | None]], found: Found
) -> None:
    less = SpecSearch(original, probes, TIMES, 1.5, 40).run()
    assert less.evaluations <= 40
    assert found.proposal.cost.kl <= less.proposal.cost.kl or not less.reached


def test_a_speed_out_of_reach_is_owned_up_to(original: Original, probes: dict[Probe, list[Cost | None]]) -> None:
    search = SpecSearch(original, probes, TIMES, 15.0, 40)
    result = search.run()
    assert not result.reached
    assert result.proposal.speed == max(c.speed for c in result.curve) < 15


def test_few_evaluations_are_not_overdrawn(original: Original, probes: dict[Probe, list[Cost | None]]) -> None:
    heard: list[int] = []
    search = SpecSearch(original, probes, TIMES, 1.5, 3, heard.append)
    assert search.run().evaluations == 3 == sum(heard) == len(search.seen) - 1


@pytest.mark.parametrize("spec", ["", "static:0", "skip:2 tokens:1/2@2", "static:0-1 tokens:1/2@2,1/4@3", "skip:1-2"])
def test_neighbours_are_one_change_away_and_can_be_probed(spec: str) -> None:
    parts, here = parts_of(tiny_vit()), Spec.parse(spec)
    found = list(neighbours(here, parts))
    assert len(found) > 5
    assert here not in found
    for other in found:
        check_spec(parts, other)
        sizes = [float(r.size) for r in other.tokens if not isinstance(r.size, tuple)]
        assert sizes == sorted(sizes, reverse=True)
        kinds = sum(here.kind(b) != other.kind(b) for b in range(4))
        assert kinds + (here.tokens != other.tokens) == 1


def test_every_spec_can_be_reached_from_the_plain_vit() -> None:
    parts = parts_of(tiny_vit())
    seen, waiting = {Spec()}, [Spec()]
    while waiting:
        for other in neighbours(waiting.pop(), parts):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    # blocks 0 to 3: the first is static or not, the last cannot skip; reductions by block, statics before the first
    plain = 2 * 3 * 3 * 2
    assert sum(not spec.tokens for spec in seen) == plain
    assert Spec.parse("static:0 skip:1-2 tokens:1/2@1,1/4@3") in seen


def test_pareto_keeps_what_nothing_beats() -> None:
    def candidate(block: int, speed: float, kl: float) -> Candidate:
        return Candidate(Spec(static=(block,)), speed, Cost(kl, 1.0, 1.0, None, None))

    all_of = [candidate(0, 1.0, 0.0), candidate(1, 1.2, 0.3), candidate(2, 1.3, 0.2), candidate(3, 1.5, 0.9),
              candidate(4, 1.5, 0.8), candidate(5, 1.1, 0.2)]  # fmt: skip
    assert [c.spec.static[0] for c in pareto(all_of)] == [0, 2, 4]


def test_a_search_of_noise_does_not_break() -> None:
    parts = parts_of(tiny_vit())
    images = noise(4)
    maps: list[torch.Tensor] = []
    parts.watch(images, lambda a, z: maps.append(a.mean(dim=0)))
    original = Original(parts, images, maps, None)
    times = BlockTimes(4, (4, 4), 0.2, 0.1, TIMES.blocks, TIMES.pyramids, 1, "made up")
    assert SpecSearch(original, probe_layers(original), times, 1.4, 30).run().reached
