"""Uformer (arXiv 2106.03106), a U-shaped network of window attention for pictures of any size, and SkipAt in it.

    InputProj -> encoder stages -> bottleneck -> decoder stages -> OutputProj, and the picture added to the result

An encoder stage s has C·2ˢ channels; the decoder stage of that resolution has twice as many, because the encoder's
tokens are put beside those that come up. Names and shapes of the weights are the released code's, its spelling of
``dowsample`` included, so released weights load.

Differences from Uformer's paper: none known. From its code: pictures need not be square, and are padded by reflection
rather than by zeros. The bottleneck's windows are never shifted, which is what the released models do: they were built
for patches of 128 pixels, of which one window covers the bottleneck.

SkipAt (arXiv 2301.02240, section 4.4) skips window attention in the decoder and reuses that of the encoder block of
the same resolution through Φ. That much is the paper's. Its code for this was not released, and all else is inferred:

- Φ goes from c channels to the decoder's 2c: FC1 c -> 2c, depthwise 5 x 5, FC2 2c -> 2c, ECA gate. The attention's own
  output projection 2c -> 2c stays after it. With every decoder block skipped, this costs 10.4 / 39.0 / 79.6 GMACs on
  256 x 256 pixels for T / S / B where the plain models cost 12.0 / 43.9 / 89.5; the paper plots 11 / 39 / 79 and
  12 / 44 / 89. (Counted as Uformer's authors do: norms, and a transposed convolution at four times what it does. By
  skipvit/complexity.py they are 9.7 / 36.2 / 76.8 and 11.3 / 41.0 / 86.6.)
- ``skip="even"`` with ``phi_expansion=1, phi_proj=False`` is the other reading that comes near those figures: half of
  the blocks, and a cheaper Φ; 10.7 / 39.5 / 79.3.
- Block i takes the attention output of block i of the encoder's stage: its windows put back in their places, so that a
  block whose windows would be shifted may reuse one whose windows are not.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from skipvit.layers.reflection import reflected
from skipvit.layers.window_attention import WindowAttention
from skipvit.models.decoder_skip import parse_decoder_skip
from skipvit.models.lewin_blocks import (
    Downsample,
    InputProj,
    LeWinBlock,
    LeWinStage,
    OutputProj,
    SkipLeWinBlock,
    Upsample,
)

_STD = 0.02  # of every linear layer and bias table at the start


class Uformer(nn.Module):
    """A noisy picture to a clean one. It starts as the identity: the output convolution's weights are zero.

    Args:
        in_chans: channels of a picture.
        embed_dim: C, channels of the first stage.
        depths: blocks in each stage: encoder, bottleneck, decoder. An odd count of stages.
        num_heads: heads in each stage.
        window: side of a window, in tokens.
        mlp_ratio: hidden channels of LeFF.
        modulator: whether decoder blocks have modulators.
        drop_path_rate: of the bottleneck; the encoder's rates rise to it, the decoder's fall from it.
        skip: decoder blocks that reuse the attention of the encoder's; see skipvit/models/decoder_skip.py.
        phi_expansion: hidden channels of Φ, in channels of the attention output that it takes.
        phi_kernel_size: side of Φ's convolution.
        phi_proj: whether the attention's output projection stays after Φ.

    Raises:
        ValueError: the sizes do not fit together.
    """

    task = "denoising"

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 32,
        depths: Sequence[int] = (2, 2, 2, 2, 2, 2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 4, 8, 16, 16, 8, 4, 2),
        window: int = 8,
        mlp_ratio: float = 4.0,
        modulator: bool = True,
        drop_path_rate: float = 0.1,
        skip: str = "",
        phi_expansion: float = 2.0,
        phi_kernel_size: int = 5,
        phi_proj: bool = True,
    ) -> None:
        super().__init__()
        levels = _levels(depths, num_heads)
        self.in_chans, self.levels, self.skip = in_chans, levels, skip
        self.multiple = window * 2**levels
        mirrored = depths[levels - 1 :: -1]  # the encoder's depths as the decoder meets them, the deepest stage first
        self.skipped = parse_decoder_skip(skip, depths[levels + 1 :])
        _check_mirror(self.skipped, mirrored)
        widths = [embed_dim * 2**level for level in range(levels + 1)]
        rates = _drop_path_rates(depths, drop_path_rate)

        def stage(index: int, dim: int, skipped: Sequence[int] = ()) -> LeWinStage:
            decodes, shifts = index > levels, index != levels
            return LeWinStage(
                [
                    SkipLeWinBlock(dim, dim // 2, phi_expansion, phi_kernel_size, phi_proj, mlp_ratio, rate)
                    if block in skipped
                    else LeWinBlock(
                        dim,
                        num_heads[index],
                        window,
                        window // 2 if shifts and block % 2 else 0,
                        mlp_ratio,
                        modulator and decodes,
                        rate,
                    )
                    for block, rate in enumerate(rates[index])
                ]
            )

        self.input_proj = InputProj(in_chans, embed_dim)
        self.output_proj = OutputProj(2 * embed_dim, in_chans)
        for level, (dim, deeper) in enumerate(pairwise(widths)):
            self.add_module(f"encoderlayer_{level}", stage(level, dim))
            self.add_module(f"dowsample_{level}", Downsample(dim, deeper))
        self.conv = stage(levels, widths[-1])
        for step, dim in enumerate(reversed(widths[:-1])):  # dim channels from above, and as many from the encoder
            self.add_module(f"upsample_{step}", Upsample(4 * dim if step else 2 * dim, dim))
            self.add_module(f"decoderlayer_{step}", stage(levels + 1 + step, 2 * dim, self.skipped[step]))
        self.apply(_init_weights)
        for parameter in self.output_proj.parameters():
            nn.init.zeros_(parameter)

    def no_weight_decay(self) -> set[str]:
        """Names of weights that are positions rather than matrices."""
        positions = ("relative_position_bias_table", "modulator.weight")
        return {name for name, _ in self.named_parameters() if name.endswith(positions)}

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, in_chans, H, W) of values 0..1, any H and W, to restored ones of that shape, not clamped.

        Sizes that are no multiples of ``multiple`` are padded by reflection, and what was added is cut off again.

        Raises:
            ValueError: x has another shape.
        """
        if x.ndim != 4 or x.shape[1] != self.in_chans or 0 in x.shape[2:]:
            raise ValueError(f"this model takes pictures (B, {self.in_chans}, H, W), got {tuple(x.shape)}")
        padded = reflected(x, self.multiple)
        residual = self._residual(padded)
        return x + (residual if padded is x else residual[:, :, : x.shape[2], : x.shape[3]])

    def _residual(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to the same, H and W multiples of ``multiple``."""
        x = self.input_proj(x)
        across: list[tuple[Tensor, dict[int, Tensor]]] = []  # from each encoder stage to the decoder's
        for level in range(self.levels):
            encoder, down = getattr(self, f"encoderlayer_{level}"), getattr(self, f"dowsample_{level}")
            x, reused = encoder(x, kept=self.skipped[self.levels - 1 - level])
            across.append((x, reused))
            x = down(x)
        x, _ = self.conv(x)
        for step in range(self.levels):
            up, decoder = getattr(self, f"upsample_{step}"), getattr(self, f"decoderlayer_{step}")
            tokens, reused = across.pop()
            x, _ = decoder(torch.cat([up(x), tokens], dim=-1), reused)  # (B, H, W, c + c)
        y: Tensor = self.output_proj(x)
        return y


def _levels(depths: Sequence[int], num_heads: Sequence[int]) -> int:
    """How often the encoder halves the picture."""
    if len(depths) % 2 == 0 or len(depths) < 3 or min(depths) < 1 or len(num_heads) != len(depths):
        raise ValueError(
            f"depths {tuple(depths)} with heads {tuple(num_heads)}: a Uformer needs as many encoder as decoder stages, "
            "a bottleneck between them, a block in each stage and a number of heads for each"
        )
    return len(depths) // 2


def _check_mirror(skipped: Sequence[Sequence[int]], encoder_depths: Sequence[int]) -> None:
    for stage, (blocks, depth) in enumerate(zip(skipped, encoder_depths, strict=True)):
        if blocks and blocks[-1] >= depth:
            raise ValueError(
                f"block {blocks[-1]} of decoder stage {stage} has no attention to reuse: the encoder's stage of that "
                f"resolution has blocks 0 to {depth - 1}"
            )


def _drop_path_rates(depths: Sequence[int], rate: float) -> list[list[float]]:
    """A rate for each block of each stage: rising over the encoder, ``rate`` in the bottleneck, falling after it."""
    levels = len(depths) // 2
    rising = torch.linspace(0, rate, sum(depths[:levels]), device="cpu").tolist()
    falling = torch.linspace(rate, 0, sum(depths[levels + 1 :]), device="cpu").tolist()
    each = iter([*rising, *[rate] * depths[levels], *falling])
    return [[next(each) for _ in range(depth)] for depth in depths]


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_STD)
        nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.relative_position_bias_table, std=_STD)
