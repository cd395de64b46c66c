"""Shapes that our kernels are timed at: those of ViT-T/S/B at 224, 384 and 512 px, and of Uformer's stages."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trt_plugins.plugin_op import Scalar

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One op at one size.

    Attributes:
        op: its name, as of the plugin.
        where: the model and picture size that have this shape.
        shapes: of the inputs.
        per_image: of each input, whether its first dimension is the batch.
        weights: the input whose rows sum to 1, as attention's do, or None.
    """

    op: str
    where: str
    scalar: Scalar
    shapes: tuple[Shape, ...]
    per_image: tuple[bool, ...]
    weights: int | None = None

    @property
    def batch(self) -> int:
        """Images, or windows of them."""
        return self.shapes[self.per_image.index(True)][0]


_SIZES = {"S": 384, "T": 192, "B": 768}  # channels; heads have 64 each
_GRIDS = {224: 14, 512: 32, 384: 24}
# Uformer-B's encoder on 256 px: side and channels of the hidden layer of LeFF, 4 times those of the stage.
_UFORMER = {256: 128, 128: 256, 64: 512, 32: 1024, 16: 2048}


def cases(batch: int = 256, uformer_batch: int = 8) -> list[Case]:
    """All, those that matter most first: ViT-S in bfloat16, then the other dtypes, sizes and models."""
    found: list[Case] = []
    scalars: tuple[Scalar, ...] = ("bf16", "f16")
    for size in _SIZES:
        for scalar in scalars:
            for pixels in _GRIDS:
                found += _vit(size, pixels, batch, scalar)
    for side, hidden in _UFORMER.items():
        found.append(_dwconv(f"Uformer-B {side} px", uformer_batch, side, hidden, 3, "f16"))
    found += _windows(uformer_batch)
    found += _vit("S", 224, batch, "f32")
    return found


def smoke_cases() -> Iterator[Case]:
    """Tiny ones of odd sizes, one of each op."""
    kinds: tuple[Literal["f32", "bf16"], ...] = ("f32", "bf16")
    for scalar in kinds:
        yield _dwconv("smoke", 3, 5, 9, 3, scalar)
        yield from _tokens("smoke", 3, 9, 7, 1, 14, scalar)
        yield Case("ReusedAttention", "smoke", scalar, ((3, 1, 9, 9), (3, 9, 14)), (True, True), 0)


def _vit(size: str, pixels: int, batch: int, scalar: Scalar) -> list[Case]:
    channels, side = _SIZES[size], _GRIDS[pixels]
    where, n = f"ViT-{size} {pixels} px", side * side
    found = [_dwconv(where, batch, side, 2 * channels, 5, scalar)]
    found += _tokens(where, batch, n, n // 2, channels // 64, channels, scalar)
    if size == "S" and pixels == 224:
        content = ((batch, 1 + n, channels), (batch, n // 2, n))
        found.append(Case("TokenPyramid", f"{where}, a matrix an image", scalar, content, (True, True), 1))
    return found


def _tokens(where: str, batch: int, n: int, fewer: int, heads: int, channels: int, scalar: Scalar) -> list[Case]:
    tokens, matrix = (batch, 1 + n, channels), (heads, 1 + n, 1 + n)
    return [
        Case("StaticAttention", where, scalar, (tokens, matrix), (True, False), 1),
        Case("EcaGate", where, scalar, ((batch, n, channels), (1, 1, 3)), (True, False)),
        Case("TokenPyramid", where, scalar, (tokens, (fewer, n)), (True, False), 1),
    ]


def _dwconv(where: str, batch: int, side: int, channels: int, kernel: int, scalar: Scalar) -> Case:
    shapes = ((batch, side, side, channels), (channels, 1, kernel, kernel), (channels,))
    return Case("TokenDwConvGelu", where, scalar, shapes, (True, False, False))


def _windows(batch: int) -> list[Case]:
    """Reused attention over windows of 8 x 8 tokens, heads of 32 channels, on pictures of 128 px a side."""
    found = []
    for side, channels in ((128, 32), (32, 128)):
        windows, heads = batch * (side // 8) ** 2, channels // 32
        shapes = ((windows, heads, 64, 64), (windows, 64, channels))
        found.append(Case("ReusedAttention", f"windows of {side} px", "f16", shapes, (True, True), 0))
    return found
