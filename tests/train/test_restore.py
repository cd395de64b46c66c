"""A denoiser on whole pictures: tiles, turns, and sizes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.restore import restore

CPU = torch.device("cpu")
PICTURE = np.random.default_rng(0).random((70, 100, 3), dtype=np.float32)


class Blur(nn.Module):
    """Looks three pixels far to the right."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 3, 0, 0), mode="reflect").unfold(3, 4, 1).mean(-1)


def test_identity_gives_the_picture() -> None:
    assert (restore(nn.Identity(), PICTURE, CPU) == PICTURE).all()
    # weights of tiles are exact for 8-bit values, and to float32's precision for others
    np.testing.assert_allclose(restore(nn.Identity(), PICTURE, CPU, tile=32), PICTURE, atol=1e-6)


def test_tiles_make_no_difference_to_what_looks_no_further_than_they_overlap() -> None:
    np.testing.assert_allclose(restore(Blur(), PICTURE, CPU, tile=48), restore(Blur(), PICTURE, CPU), atol=1e-6)


def test_ensemble_is_the_mean_over_turned_pictures() -> None:
    x = torch.from_numpy(PICTURE).permute(2, 0, 1)[None]
    expected = torch.zeros_like(x)
    for turns in range(4):
        for mirrored in (False, True):
            y = torch.rot90(x, turns, (2, 3))
            y = Blur()(y.flip(3)).flip(3) if mirrored else Blur()(y)
            expected += torch.rot90(y, -turns, (2, 3)) / 8
    found = restore(Blur(), PICTURE, CPU, ensemble=True)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=1e-6)
    turned = restore(Blur(), np.ascontiguousarray(np.rot90(PICTURE)), CPU, ensemble=True)
    np.testing.assert_allclose(np.rot90(turned, -1), found, atol=1e-6)


def test_tile_that_the_model_does_not_take_is_refused() -> None:
    model = Blur()
    model.multiple = 32  # type: ignore[assignment]
    with pytest.raises(ValueError, match="tiles must be a multiple of the model's 32 pixels, got 48"):
        restore(model, PICTURE, CPU, tile=48)


@pytest.mark.parametrize("multiple", [96, 512])
def test_large_pictures_are_cut_as_the_model_needs(multiple: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Particular(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[2] % multiple == x.shape[3] % multiple == 0
            return x

    class Wrapper(nn.Module):  # as DistributedDataParallel wraps it
        def __init__(self) -> None:
            super().__init__()
            self.module = Particular()
            self.module.multiple = multiple  # type: ignore[assignment]

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.module(x)
            return y

    monkeypatch.setattr("train.restore._WHOLE", 1000)
    np.testing.assert_allclose(restore(Wrapper(), PICTURE, CPU), PICTURE, atol=1e-6)
