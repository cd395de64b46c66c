"""A denoiser on whole pictures of any size."""

import numpy as np
import torch
from torch import Tensor, nn

from skipvit.tiling import plan
from skipvit.tiling import restore as restore_tiles
from train.noise import Picture

# Pictures of up to so many pixels pass through the model whole, larger ones in tiles.
_WHOLE = 1 << 20
_TILE, _HALO = 512, 64


@torch.no_grad()  # not inference_mode: FSDP2 would keep its gathered weights as inference tensors
def restore(model: nn.Module, noisy: Picture, device: torch.device, ensemble: bool = False, tile: int = 0) -> Picture:
    """What ``model``, in evaluation mode, makes of a picture (H, W, 3) in 0..1; not clipped.

    Args:
        ensemble: the mean over the 8 ways to turn and mirror the picture (Lim et al., EDSR, arXiv 1707.02921, 3.4).
        tile: side of square tiles, a multiple of the model's; 0 cuts large pictures only.

    Raises:
        ValueError: the model does not take tiles of that size.
    """
    if not tile and noisy.shape[0] * noisy.shape[1] <= _WHOLE:
        return _run(model, noisy, device, ensemble)
    multiple = int(getattr(getattr(model, "module", model), "multiple", 1))  # DistributedDataParallel hides the model
    side = tile or -(-max(_TILE, 2 * multiple) // multiple) * multiple
    tiles = plan(noisy.shape[0], noisy.shape[1], side, min(_HALO, side // 4), multiple)
    return restore_tiles(noisy, tiles, lambda part: _run(model, part, device, ensemble), "float32")


def _run(model: nn.Module, noisy: Picture, device: torch.device, ensemble: bool) -> Picture:
    x = torch.from_numpy(np.ascontiguousarray(noisy)).permute(2, 0, 1)[None].to(device)  # (H, W, 3) -> (1, 3, H, W)
    y = _ensemble(model, x) if ensemble else model(x)
    return np.asarray(y[0].float().permute(1, 2, 0).cpu().numpy())


def _ensemble(model: nn.Module, x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for way in range(8):
        turned = x.rot90(way % 4, (2, 3))
        restored = model(turned if way < 4 else turned.flip(3))
        total += (restored if way < 4 else restored.flip(3)).rot90(-(way % 4), (2, 3))
    return total / 8
