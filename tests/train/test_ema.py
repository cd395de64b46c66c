"""The averaged weights against the formula."""

import torch
from torch import nn

from train.ema import Ema, decay_at


def test_decay_warms_up() -> None:
    assert decay_at(0, 0.999) == 0.1
    assert decay_at(90, 0.999) == 91 / 100
    assert decay_at(10**6, 0.999) == 0.999


def test_average_follows_the_formula() -> None:
    model, weights = nn.Linear(3, 2), []
    ema = Ema(model, 0.6)
    expected = model.weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            model.weight += torch.randn_like(model.weight)
        ema.update(step)
        weights.append(model.weight.detach().clone())
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights[-1]
    torch.testing.assert_close(ema.shadow["weight"], expected)


def test_buffers_are_averaged_or_copied() -> None:
    norm = nn.BatchNorm1d(2)
    ema = Ema(norm, 0.5)
    norm(torch.randn(8, 2) + 3)
    before = ema.shadow["running_mean"].clone()
    ema.update(100)
    torch.testing.assert_close(ema.shadow["running_mean"], (before + norm.running_mean) / 2)
    assert ema.shadow["num_batches_tracked"] == 1


def test_weights_come_back_bit_for_bit_even_after_an_error() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.normal_()
    ema.update(3)
    own, average = model.weight.detach().clone(), ema.shadow["weight"].clone()
    try:
        with ema.in_place():
            assert torch.equal(model.weight, average)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(model.weight, own)
    assert torch.equal(ema.shadow["weight"], average)
