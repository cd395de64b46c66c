"""Candidates in turns: every round runs each once, in an order that rotates, so that drift hits all alike."""

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from tqdm import tqdm

Key = TypeVar("Key", bound=Hashable)


def in_turns(candidates: Mapping[Key, Callable[[], float]], rounds: int, label: str) -> dict[Key, list[float]]:
    """What each candidate says it took, a value a round."""
    times: dict[Key, list[float]] = {key: [] for key in candidates}
    order = list(candidates)
    for round_ in tqdm(range(rounds), desc=label, unit="round", leave=False):
        turn = round_ % len(order)
        for key in order[turn:] + order[:turn]:
            times[key].append(candidates[key]())
    return times


def speedup(baseline: Sequence[float], candidate: Sequence[float]) -> float:
    """Median over rounds of baseline time over candidate time, paired within the round."""
    return statistics.median(b / c for b, c in zip(baseline, candidate, strict=True))
