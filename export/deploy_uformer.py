"""Uformer as the graph to deploy. The rewrites are exact in real arithmetic, and each was measured to pay on a CPU.

- 1/255 and 255 are inside the first and the last convolution, so the graph starts from the bytes of the picture;
- LeFF and Φ are convolutions from end to end, so their wide middle never changes its layout;
- coming up a level is one product and a reordering of its columns;
- attention is in the form of export/deploy_windows.py; what shifted windows need is computed once for each level.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.deploy_windows import DeployedAttention, Shifted, linear
from skipvit.models import Uformer
from skipvit.models.lewin_blocks import LeWinBlock, SkipLeWinBlock
from skipvit.ops import eca_gate

_MAX_LEVEL = 255.0


class DeployedUformer(nn.Module):
    """Pictures (B, H, W, 3) float32 in 0..255 to restored ones; H and W are multiples of the model's.

    Args:
        model: which is taken apart, so give a copy.
        dtype: in which all is computed but the sum of picture and residual, which is in float32.
    """

    def __init__(self, model: Uformer, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.skipped = model.skipped
        self.input, self.output = _conv(model.input_proj.proj[0]), _conv(model.output_proj.proj[0])
        # Folded input weights are 1/255 of the original: float16 would lose their small values to underflow.
        self.folded = dtype == torch.float32
        if self.folded:
            self.input.weight.data /= _MAX_LEVEL
            for parameter in self.output.parameters():
                parameter.data *= _MAX_LEVEL
        levels = range(model.levels)
        self.encoder = nn.ModuleList(_blocks(getattr(model, f"encoderlayer_{level}")) for level in levels)
        self.down = nn.ModuleList(getattr(model, f"dowsample_{level}").conv[0] for level in levels)
        self.bottleneck = _blocks(model.conv)
        self.up = nn.ModuleList(DeployedUpsample(getattr(model, f"upsample_{step}").deconv[0]) for step in levels)
        self.decoder = nn.ModuleList(_blocks(getattr(model, f"decoderlayer_{step}")) for step in levels)
        self.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W)
        x = x if self.folded else (x / _MAX_LEVEL).to(self.dtype)
        residual = self._residual(x).permute(0, 2, 3, 1).float()  # (B, 3, H, W) -> (B, H, W, 3)
        return images + (residual if self.folded else residual * _MAX_LEVEL)

    def _residual(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.input(x)).permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        across = []
        for level, (encoder, down) in enumerate(zip(self.encoder, self.down, strict=True)):
            shifted = self._shifted(level, x)
            x, outputs = _through(encoder, x, (), shifted)
            across.append((x, outputs, shifted))
            x = down(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # as pictures (B, C, H, W), and back to tokens
        x, _ = _through(self.bottleneck, x, (), None)
        for up, decoder in zip(self.up, self.decoder, strict=True):
            tokens, outputs, shifted = across.pop()
            x, _ = _through(decoder, torch.cat([up(x), tokens], dim=-1), outputs, shifted)
        residual: Tensor = self.output(x.permute(0, 3, 1, 2))
        return residual

    def _shifted(self, level: int, x: Tensor) -> Shifted | None:
        """What the shifted windows of a level share, encoder's and decoder's alike; None where it has none."""
        stages: tuple[Any, ...] = (self.encoder[level], self.decoder[len(self.decoder) - 1 - level])
        attentions = [block.attention for stage in stages for block in stage if block.attention is not None]
        for attention in attentions:
            if attention.shift:
                return Shifted.of(x.shape[1], x.shape[2], attention.window, attention.shift, like=x)
        return None


def _blocks(stage: Any) -> nn.ModuleList:
    return nn.ModuleList(DeployedBlock(block) for block in stage.blocks)


def _through(blocks: Any, x: Tensor, reused: Sequence[Tensor], shifted: Shifted | None) -> tuple[Tensor, list[Tensor]]:
    """Tokens through a stage's blocks, and the attention output of each."""
    outputs = []
    for index, block in enumerate(blocks):
        x, z = block(x, reused[index] if index < len(reused) else None, shifted)
        outputs.append(z)
    return x, outputs


def _conv(layer: Any) -> nn.Conv2d:
    assert isinstance(layer, nn.Conv2d)
    return layer


class DeployedBlock(nn.Module):
    """A LeWin block, or one that skips: x (B, H, W, C) to its next value and the attention output."""

    def __init__(self, block: LeWinBlock | SkipLeWinBlock) -> None:
        super().__init__()
        self.attention: DeployedAttention | None = None
        if isinstance(block, LeWinBlock):
            self.norm1, self.attention = block.norm1, DeployedAttention(block.attn, block.modulator)
        else:
            self.phi = DeployedPhi(block)
        self.norm2 = block.norm2
        self.leff = ConvolvedLeFF(block.mlp.linear1[0], block.mlp.dwconv[0], block.mlp.linear2[0])

    def forward(self, x: Tensor, reused: Tensor | None, shifted: Shifted | None) -> tuple[Tensor, Tensor]:
        z = self.phi(reused) if self.attention is None else self.attention(self.norm1(x), shifted)
        x = x + z
        return x + self.leff(self.norm2(x)), z


class ConvolvedLeFF(nn.Module):
    """Linear and GELU, depthwise convolution and GELU, Linear, all as convolutions: (B, H, W, C) to (B, H, W, C')."""

    def __init__(self, first: Any, depthwise: Any, second: Any) -> None:
        super().__init__()
        self.first, self.depthwise, self.second = _pointwise(first), _conv(depthwise), _pointwise(second)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.first(x.permute(0, 3, 1, 2)))  # (B, H, W, C) -> (B, hidden, H, W)
        y = self.second(F.gelu(self.depthwise(y)))
        return y.permute(0, 2, 3, 1)  # (B, C', H, W) -> (B, H, W, C')


def _pointwise(layer: nn.Linear) -> nn.Conv2d:
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1)
    conv.weight = nn.Parameter(layer.weight.detach()[:, :, None, None].clone())
    conv.bias = nn.Parameter(layer.bias.detach().clone())
    return conv


class DeployedPhi(nn.Module):
    """Φ of a skipping block and the projection after it, where it has one: (B, H, W, c) to (B, H, W, C)."""

    def __init__(self, block: SkipLeWinBlock) -> None:
        super().__init__()
        self.leff = ConvolvedLeFF(block.phi.fc1, block.phi.dwconv, block.phi.fc2)
        self.eca, self.proj = block.phi.eca, block.proj

    def forward(self, z: Tensor) -> Tensor:
        y = self.leff(z)
        y = y * eca_gate(y.flatten(1, 2), self.eca.weight).unsqueeze(1)  # the gate is (B, 1, C)
        return linear(y, self.proj.weight, self.proj.bias) if isinstance(self.proj, nn.Linear) else y


class DeployedUpsample(nn.Module):
    """A 2 x 2 transposed convolution of stride 2 on tokens, (B, H, W, C) to (B, 2H, 2W, C')."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.channels = conv.out_channels
        weight, bias = conv.weight.detach(), conv.bias
        assert bias is not None
        self.register_buffer("weight", weight.permute(2, 3, 1, 0).reshape(-1, conv.in_channels))  # (2*2*C', C)
        self.register_buffer("bias", bias.detach().repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        y = linear(x, self.weight, self.bias).unflatten(3, (2, 2, self.channels))  # (B, H, W, 2, 2, C')
        return y.transpose(2, 3).reshape(batch, 2 * height, 2 * width, self.channels)
