"""A video denoiser, or one of pictures, on sequences of any length, with one window of frames in memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from skipvit.clips import slide
from skipvit.models import VideoDenoiser
from train.noise import Picture
from train.restore import restore


def restore_clip(model: nn.Module, noisy: Iterable[Picture], sigma: float, device: torch.device) -> Iterator[Picture]:
    """What ``model``, in evaluation mode, makes of frames (H, W, 3) in 0..1, one after the other; not clipped.

    Args:
        sigma: standard deviation of the noise, in 1/255; a denoiser of pictures is not told.
    """
    inside = getattr(model, "module", model)  # DistributedDataParallel hides what it wraps
    if not isinstance(inside, VideoDenoiser):
        for frame in noisy:
            yield restore(model, frame, device)
        return
    for window, frames in slide(map(_tensor, noisy), inside.frames, inside.lead, inside.lag):
        yield from _pictures(_run(model, torch.stack(frames)[None].to(device), sigma)[0, window.kept])


@torch.no_grad()  # not inference_mode: FSDP2 would keep its gathered weights as inference tensors
def _run(model: nn.Module, clip: Tensor, sigma: float) -> Tensor:
    # the graph form, which distributed wrappers pass on like any other call
    noise_map = torch.full_like(clip[:, :, :1], sigma / 255)
    restored: Tensor = model(torch.cat([clip, noise_map], dim=2))
    return restored


def _tensor(frame: Picture) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _pictures(frames: Tensor) -> Iterator[Picture]:
    for frame in frames.float().permute(0, 2, 3, 1).cpu():  # (T, 3, H, W) -> (T, H, W, 3)
        yield np.asarray(frame.numpy())
