"""A video denoiser: a U-shaped network over space and time, and SkipAt in its decoder.

    clip + noise map -> convolution blocks -> attention blocks -> bottleneck -> mirrored decoder -> + clip

SkipAt (arXiv 2301.02240, section 4.5) puts its idea into a denoiser built of UniFormer's blocks (arXiv 2201.09450) in
U shape: 3-D convolutions early, space-time attention later. Decoder blocks there compute no attention matrix, they
take that of the encoder's block and their own values: Z_dec = A_enc V_dec, with no Φ. So much is the paper's, and it
is what ``reuse=True`` does: block i of a decoder stage takes the matrix of block i of the encoder stage of the same
resolution, as it is. The bottleneck always computes its own.

Its code was not released, nor its sizes. The rest is this project's choice:

- With ``patch=2``, 2 x 2 pixels become channels at the entrance and pixels again at the exit, as in FFDNet (arXiv
  1710.04026): the first stage works on a quarter of the positions. The micro does without, because it learns in fewer
  steps: single frames, 200 steps, 28.1 dB against 26.1 dB. Each further stage halves the map once more.
- Attention is over windows of all T frames by w x w, never shifted: the convolutions before, between and after carry
  features across borders. Offsets have learned biases, as in Swin's video kind (arXiv 2106.13230), beside UniFormer's
  depthwise convolution for positions.
- UniFormer's depthwise local aggregation and batch normalisation are a plain residual pair of convolutions here.
- The encoder's features are put beside those that come up, and a 1 x 1 convolution brings both to one width.
- Sizes: video_denoiser_small takes 45.6 GMACs for 7 frames of 128 x 128 pixels, its SkipAt twin 40.9, which is 10 %
  less (the paper's figure of 93.2 and 77.1 is 17 % less); video_denoiser_micro 4.05 and 3.98 for 5 frames.
- The network is told how strong the noise is by a constant fourth channel, sigma in units of the pixels' range, as
  FastDVDnet (arXiv 1907.01361) does. All T frames that go in come out.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.layers.reflection import reflected
from skipvit.layers.space_time import SpaceTimeAttention, SpaceTimeConv
from skipvit.layers.space_time_blocks import AttentionBlock, ConvBlock

_STD = 0.02  # of linear layers and bias tables at the start


class VideoDenoiser(nn.Module):
    """Noisy clips and the deviation of their noise to clean clips. It starts as the identity.

    Args:
        frames: T, frames of a clip; 1 makes a denoiser of single pictures, all kernels one frame long.
        dims: channels of each stage; the last is the bottleneck.
        depths: blocks of each stage; a decoder stage has as many as the encoder's.
        num_heads: heads of each stage; 0 makes it one of convolution blocks.
        window: side of an attention window, in positions of its stage.
        patch: side of the squares of pixels that become channels at the entrance, and pixels again at the exit.
        mlp_ratio: hidden channels of attention blocks' MLP, in channels.
        causal: no frame of the result depends on a later frame of the clip.
        reuse: decoder attention blocks reuse the encoder's matrices.

    ``lead`` and ``lag`` are how skipvit.clips should lay its windows of ``frames`` over longer clips.

    Raises:
        ValueError: the sizes do not fit together.
    """

    task = "video-denoising"

    def __init__(
        self,
        frames: int = 5,
        dims: Sequence[int] = (16, 32, 64, 64),
        depths: Sequence[int] = (1, 1, 1, 1),
        num_heads: Sequence[int] = (0, 0, 4, 4),
        window: int = 4,
        patch: int = 1,
        mlp_ratio: float = 2.0,
        causal: bool = False,
        reuse: bool = False,
    ) -> None:
        super().__init__()
        _check(frames, dims, depths, num_heads, window)
        time = 3 if frames > 1 else 1
        self.frames, self.levels, self.patch, self.causal, self.reuse = frames, len(dims) - 1, patch, causal, reuse
        # of a window over a longer clip, so many frames at its start and end are there for the others' sake
        self.lead, self.lag = (0, 0) if frames < 3 else (2, 0) if causal else (1, 1)
        self.multiple = patch * 2**self.levels * (window if any(num_heads) else 1)

        def stage(level: int, reuse: bool = False) -> nn.ModuleList:
            dim, heads = dims[level], num_heads[level]
            return nn.ModuleList(
                AttentionBlock(dim, heads, frames, window, time, mlp_ratio, causal, reuse)
                if heads
                else ConvBlock(dim, time, causal)
                for _ in range(depths[level])
            )

        pairs = list(pairwise(dims))
        self.stem = SpaceTimeConv(4 * patch**2, dims[0], time, causal=causal)
        self.encoder = nn.ModuleList(stage(level) for level in range(self.levels))
        self.down = nn.ModuleList(_Down(dim, deeper) for dim, deeper in pairs)
        self.bottleneck = stage(self.levels)
        self.up = nn.ModuleList(_Up(deeper, dim) for dim, deeper in pairs)
        self.fuse = nn.ModuleList(SpaceTimeConv(2 * dim, dim, time=1, space=1) for dim, _ in pairs)
        self.decoder = nn.ModuleList(stage(level, reuse) for level in range(self.levels))
        self.head = SpaceTimeConv(dims[0], 3 * patch**2, time=1)
        self.apply(_init_weights)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def no_weight_decay(self) -> set[str]:
        """Names of weights that are positions rather than matrices."""
        return {name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")}

    def forward(self, clip: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Noisy clips to restored ones (B, T, 3, H, W), not clamped.

        Args:
            clip: (B, T, 3, H, W) of values 0..1, any H and W; or, without ``sigma``, (B, T, 4, H, W) with the noise
                map as fourth channel, sigma / 255 everywhere.
            sigma: (B,) standard deviation of each clip's noise, in 1/255 of the range.

        Raises:
            ValueError: the clip has another shape.
        """
        self._check_clip(clip, noise_map=sigma is None)
        if sigma is not None:
            noise_map = (sigma / 255).to(clip.dtype).view(-1, 1, 1, 1, 1).expand(*clip.shape[:2], 1, *clip.shape[3:])
            clip = torch.cat([clip, noise_map], dim=2)
        batch, _, _, height, width = clip.shape
        pictures = clip.flatten(0, 1)  # (B, T, 4, H, W) -> (B*T, 4, H, W)
        padded = reflected(pictures, self.multiple)
        residual = self._residual(padded, batch)
        if padded is not pictures:
            residual = residual[:, :, :height, :width]
        return clip[:, :, :3] + residual.unflatten(0, (batch, self.frames))

    def _check_clip(self, clip: Tensor, noise_map: bool) -> None:
        channels, how = (4, "with") if noise_map else (3, "without")
        if clip.ndim != 5 or clip.shape[1] != self.frames or clip.shape[2] != channels or 0 in clip.shape[3:]:
            raise ValueError(
                f"this model takes clips (B, {self.frames}, {channels}, H, W), {how} a noise map, "
                f"got {tuple(clip.shape)}; skipvit.clips cuts longer ones"
            )

    def _residual(self, pictures: Tensor, batch: int) -> Tensor:
        """(B*T, 4, H, W) to (B*T, 3, H, W), H and W multiples of ``multiple``."""
        if self.patch > 1:
            pictures = F.pixel_unshuffle(pictures, self.patch)
        x = pictures.unflatten(0, (batch, self.frames))  # (B, T, 4p², H/p, W/p)
        x = self.stem(x.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d))  # (B, C, T, H/p, W/p)
        across: list[tuple[Tensor, list[Tensor]]] = []  # from each encoder stage to the decoder's
        for stage, down in zip(self.encoder, self.down, strict=True):
            x, matrices = _run(stage, x)
            across.append((x, matrices))
            x = down(x)
        x, _ = _run(self.bottleneck, x)
        for level in reversed(range(self.levels)):
            beside, matrices = across.pop()
            x = self.fuse[level](torch.cat([self.up[level](x), beside], dim=1))  # (B, C + C, ...) -> (B, C, ...)
            x, _ = _run(self.decoder[level], x, matrices if self.reuse else ())
        y = self.head(x).transpose(1, 2).flatten(0, 1)  # (B, 3p², T, H/p, W/p) -> (B*T, 3p², H/p, W/p)
        return F.pixel_shuffle(y, self.patch) if self.patch > 1 else y


def _run(stage: nn.Module, x: Tensor, reused: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
    """A stage's blocks one after the other; with the attention matrices that they used, given or computed."""
    matrices = []
    for index, block in enumerate(stage.children()):
        if isinstance(block, AttentionBlock):
            x, matrix = block(x, reused[index] if reused else None)
            matrices.append(matrix)
        else:
            x = block(x)
    return x, matrices


class _Down(nn.Conv3d):
    """Halves each frame's map."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__(dim, dim_out, (1, 2, 2), stride=(1, 2, 2))


class _Up(nn.ConvTranspose3d):
    """Doubles each frame's map."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__(dim, dim_out, (1, 2, 2), stride=(1, 2, 2))


def _check(frames: int, dims: Sequence[int], depths: Sequence[int], num_heads: Sequence[int], window: int) -> None:
    if frames < 1 or window < 1:
        raise ValueError(f"frames {frames} and window {window} must be 1 or more")
    if len(dims) < 2 or not len(dims) == len(depths) == len(num_heads) or min(*dims, *depths) < 1:
        raise ValueError(
            f"dims {tuple(dims)}, depths {tuple(depths)} and heads {tuple(num_heads)} must name the same two or more "
            "stages, each of a channel and a block at least"
        )


def _init_weights(module: nn.Module) -> None:
    """Convolutions keep the variance of what they are given, and what is added to a block's input starts at zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_STD)
        nn.init.zeros_(module.bias)
    elif isinstance(module, SpaceTimeAttention):
        nn.init.trunc_normal_(module.relative_position_bias_table, std=_STD)
