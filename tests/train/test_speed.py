"""Turns and repeats, on a clock that only the pieces move."""

import pytest
import torch
from torch import nn

from train import speed
from train.speed import Rates, interleaved, rates

CPU = torch.device("cpu")


class Clock:
    """Time that passes only when somebody works; ``log`` says who did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.log = 0.0, list[str]()
        monkeypatch.setattr(speed.time, "thread_time", lambda: self.seconds)

    def work(self, name: str, seconds: float) -> None:
        self.seconds += seconds
        self.log.append(name)


class Slow(nn.Module):
    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert torch.get_num_threads() == 1
        assert not torch.is_grad_enabled()
        self.clock.work("model", self.seconds)
        return images


def test_pieces_take_turns_and_medians_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rounds = Clock(monkeypatch), list[int]()
    times = iter([9.0, 1.0, 7.0, 2.0])  # the first run is not counted
    pieces = {"a": lambda: clock.work("a", next(times)), "b": lambda: clock.work("b", 3.0)}
    assert interleaved(CPU, pieces, 3, rounds.append) == {"a": 2.0, "b": 3.0}
    assert clock.log == ["a", "b"] * 4
    assert rounds == [1, 1, 1]


def test_what_is_done_soon_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = interleaved(CPU, {"quick": lambda: clock.work("quick", 0.25)}, 2, least=1.0)
    assert found == {"quick": 0.25}
    assert len(clock.log) == 1 + 1 + 2 * 4


def test_rates_are_images_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, threads = Clock(monkeypatch), torch.get_num_threads()
    assert rates(Slow(clock, 2.0), Slow(clock, 0.5), torch.zeros(4, 3, 2, 2)) == Rates(2.0, 8.0)
    assert torch.get_num_threads() == threads
