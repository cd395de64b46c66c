"""How alike the attentions of a ViT's layers are, and of its images: streamed, in O(N²) memory a head.

For L layers, h heads, N tokens and images i: A_l(i) (h, N, N) is the attention map, Ẑ_l(i) (N, C) the attention output.
Nothing depends on how the images were split into batches, but for rounding.

  - CKA (the figure of SkipAt): HSIC_1 of arXiv 2010.15327 in groups of 16 images, summed over the groups. The groups
    follow the order of the images, not the batches.
  - Neighbours: the cosine of Ẑ_l and Ẑ_m, and of the maps A_l and A_m averaged over heads, since heads of two layers do
    not correspond; of the whole map, and of the class token's row alone.
  - Across images (the observation of DGSSA): mean over pairs i ≠ j of cos(A_l(i), A_l(j)), which streams as
    (||Σ a_i||² - n) / (n (n - 1)) with a_i of unit norm. All maps look alike, their rows being positive and summing to
    1, so the centred figure takes the uniform map 1/N away first. The deviation is √E||A - Ā||² / ||Ā||.
  - Rank (the observation of GLAD), on the first images only: exp of the entropy of the singular values (Roy and
    Vetterli 2007), and the stable rank ||A||_F² / ||A||_2².
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CKA_GROUP = 16
_LEAST_FOR_HSIC = 4  # the unbiased estimator divides by n (n - 3)
# Outputs that differ by less than this share of their size do not differ, in float32 and another order of summation.
_SAME = 1e-5


@dataclass(frozen=True)
class Statistics:
    """The finished figures; L x L tensors are symmetric, float64, with 1 on the diagonal.

    Attributes:
        cka: (L, L) of the attention outputs; None with fewer than 4 images.
        output_cosine: (L, L) of the attention outputs.
        map_cosine: (L, L) of whole attention maps, averaged over heads first.
        class_cosine: (L, L) of the class token's rows; None without one.
        similarity: (L, h) across images; None with one image.
        centred_similarity: (L, h), the uniform map taken away.
        deviation: (L, h), 0 where all images attend alike.
        entropy_rank: (L, h), from 1 to N.
        stable_rank: (L, h), from 1 to N.
        mean_map: L tensors (h, N, N), what a static layer would attend by.
    """

    images: int
    rank_images: int
    cka: Tensor | None
    output_cosine: Tensor
    map_cosine: Tensor
    class_cosine: Tensor | None
    similarity: Tensor | None
    centred_similarity: Tensor | None
    deviation: Tensor
    entropy_rank: Tensor
    stable_rank: Tensor
    mean_map: list[Tensor]


class Accumulator:
    """Takes the layers of one batch after another, first to last; see `Statistics` for what comes out.

    Of a batch it keeps one layer's maps at a time, and the heads' means and the outputs of all.

    Args:
        layers: L.
        has_class_token: whether token 0 is one.
        rank_images: how many images to take singular values of.
    """

    def __init__(self, layers: int, has_class_token: bool, rank_images: int) -> None:
        self.layers, self.has_class_token, self.rank_images = layers, has_class_token, rank_images
        self.images = 0
        self._maps: list[MapSums] = []
        self._cosines: dict[str, Tensor] = {}
        self._hsic = GroupedHsic(CKA_GROUP)
        self._outputs: list[Tensor] = []
        self._head_means: list[Tensor] = []

    def see(self, attention: Tensor, output: Tensor) -> None:
        """The next layer: attention maps (B, h, N, N) and outputs (B, N, C); after L of them the next batch begins."""
        layer = len(self._outputs)
        if layer == len(self._maps):
            self._maps.append(MapSums.like(attention))
        self._maps[layer].add(attention, max(0, min(len(output), self.rank_images - self.images)))
        self._head_means.append(attention.mean(dim=1))
        self._outputs.append(output)
        if layer + 1 == self.layers:
            self._close_batch()

    def _close_batch(self) -> None:
        self._add_cosines("output", self._outputs)
        self._add_cosines("map", self._head_means)
        if self.has_class_token:
            self._add_cosines("class", [a[:, 0] for a in self._head_means])
        self._hsic.add(self._outputs)
        self.images += len(self._outputs[0])
        self._outputs, self._head_means = [], []

    def finish(self) -> Statistics:
        """The figures over all images so far."""
        n = self.images
        per_layer = [sums.finish(n) for sums in self._maps]
        pairs = n > 1
        return Statistics(
            images=n,
            rank_images=min(n, self.rank_images),
            cka=self._hsic.cka(),
            output_cosine=self._cosines["output"] / n,
            map_cosine=self._cosines["map"] / n,
            class_cosine=self._cosines["class"] / n if self.has_class_token else None,
            similarity=torch.stack([f.similarity for f in per_layer]) if pairs else None,
            centred_similarity=torch.stack([f.centred_similarity for f in per_layer]) if pairs else None,
            deviation=torch.stack([f.deviation for f in per_layer]),
            entropy_rank=torch.stack([f.entropy_rank for f in per_layer]),
            stable_rank=torch.stack([f.stable_rank for f in per_layer]),
            mean_map=[sums.plain / n for sums in self._maps],
        )

    def _add_cosines(self, name: str, layers: list[Tensor]) -> None:
        units = torch.stack([F.normalize(layer.flatten(1), dim=1) for layer in layers])  # (L, B, ...)
        cosines = torch.einsum("lbd,mbd->blm", units, units).double().sum(dim=0)
        self._cosines[name] = self._cosines[name] + cosines if name in self._cosines else cosines


@dataclass(frozen=True)
class HeadFigures:
    """Figures (h,) of one layer."""

    similarity: Tensor
    centred_similarity: Tensor
    deviation: Tensor
    entropy_rank: Tensor
    stable_rank: Tensor


@dataclass
class MapSums:
    """Running sums over images of one layer's attention maps: as they are, of unit norm, and centred of unit norm."""

    plain: Tensor  # (h, N, N)
    unit: Tensor
    centred: Tensor
    squares: Tensor  # (h,): sum of ||A||²
    uniform: Tensor  # (h,): images whose map is the uniform one, and has no direction once centred
    entropy_rank: Tensor
    stable_rank: Tensor
    ranked: int = 0

    @classmethod
    def like(cls, a: Tensor) -> "MapSums":
        """Sums of nothing, for maps like a (B, h, N, N)."""
        maps = [torch.zeros_like(a[0]) for _ in range(3)]
        scalars = [a.new_zeros(a.shape[1], dtype=torch.float64) for _ in range(4)]
        return cls(maps[0], maps[1], maps[2], scalars[0], scalars[1], scalars[2], scalars[3])

    def add(self, a: Tensor, ranked: int) -> None:
        """Maps (B, h, N, N), and singular values of the first ``ranked`` of them."""
        self.plain += a.sum(dim=0)
        norms = torch.linalg.vector_norm(a, dim=(2, 3))
        self.squares += norms.double().square().sum(dim=0)
        self.unit += torch.einsum("bhij,bh->hij", a, 1 / norms)
        centred = a - 1 / a.shape[-1]
        centred_norms = torch.linalg.vector_norm(centred, dim=(2, 3))
        flat = centred_norms < 1e-6 * norms
        self.uniform += flat.double().sum(dim=0)
        self.centred += torch.einsum("bhij,bh->hij", centred, torch.where(flat, 0, 1 / centred_norms))
        if ranked:
            sigma = torch.linalg.svdvals(a[:ranked].double())  # (B, h, N), largest first
            self.entropy_rank += entropy_rank(sigma).sum(dim=0)
            self.stable_rank += (sigma.square().sum(dim=-1) / sigma[..., 0].square()).sum(dim=0)
            self.ranked += ranked

    def finish(self, n: int) -> HeadFigures:
        """The layer's figures over n images; similarities are meaningless for n = 1."""
        pairs = max(1, n * (n - 1))
        mean_square = torch.linalg.vector_norm(self.plain.double() / n, dim=(1, 2)).square()
        return HeadFigures(
            similarity=(self.unit.double().square().sum(dim=(1, 2)) - n) / pairs,
            # uniform maps are alike in having no pattern: they count as 0 with any other
            centred_similarity=(self.centred.double().square().sum(dim=(1, 2)) - (n - self.uniform)) / pairs,
            deviation=((self.squares / n - mean_square).clamp_min(0) / mean_square).sqrt(),
            entropy_rank=self.entropy_rank / max(1, self.ranked),
            stable_rank=self.stable_rank / max(1, self.ranked),
        )


class GroupedHsic:
    """HSIC_1 between all pairs of layers, over groups of so many images in their order.

    A last group that is not full counts only where there is no other. A layer whose outputs do not differ between the
    images, or differ so little that its own estimate is not positive, is like no other: its CKA with them is 0.
    """

    def __init__(self, group: int) -> None:
        self.group = group
        self._waiting: list[list[Tensor]] = []  # a part of a group: for each layer (n, N * C)
        self._count = 0
        self._sum: Tensor | None = None
        self._least: Tensor | float = 0.0  # (L,): HSIC of layers with themselves that is rounding alone

    def add(self, outputs: list[Tensor]) -> None:
        """Outputs (B, N, C) of each layer."""
        rows, start = len(outputs[0]), 0
        while start < rows:
            taking = min(rows - start, self.group - self._count)
            # a part that waits for the next batch is copied, so that it does not keep its whole batch alive
            parts = [z[start : start + taking].flatten(1) for z in outputs]
            self._waiting.append([p.clone() for p in parts] if self._count + taking < self.group else parts)
            self._count += taking
            start += taking
            if self._count == self.group:
                self._close()

    def cka(self) -> Tensor | None:
        """(L, L) float64, or None where there are too few images."""
        if self._sum is None and self._count >= _LEAST_FOR_HSIC:
            self._close()
        if self._sum is None:
            return None
        own = self._sum.diagonal()
        root = torch.where(own > self._least, own, torch.inf).sqrt()
        cka = self._sum / (root[:, None] * root)
        return torch.where(torch.eye(len(own), dtype=torch.bool, device=own.device), 1.0, cka)

    def _close(self) -> None:
        layers = [torch.cat(parts) for parts in zip(*self._waiting, strict=True)]
        # HSIC_1 is blind to a shift of all rows; taking the mean away first keeps float32's digits for what differs
        centred = [x - x.mean(dim=0) for x in layers]
        found = hsic(torch.stack([x @ x.mT for x in centred]).double())
        self._sum = found if self._sum is None else self._sum + found
        squares = torch.stack([x.double().square().sum(dim=1).mean() for x in layers])
        self._least = self._least + (_SAME**2 * squares).square()
        self._waiting, self._count = [], 0


def hsic(grams: Tensor) -> Tensor:
    """Unbiased HSIC_1 (L, L) between L Gram matrices (L, n, n), n >= 4 (Song et al. 2012, equation 5).

    1 / (n (n - 3)) (tr(K̃ L̃) + 1'K̃1 1'L̃1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K̃ L̃1), K̃ being K with a diagonal of zeros.
    """
    n = grams.shape[-1]
    k = grams - torch.diag_embed(grams.diagonal(dim1=1, dim2=2))
    rows = k.sum(dim=2)  # (L, n)
    total = rows.sum(dim=1)
    trace = torch.einsum("lij,mij->lm", k, k)
    mixed = total[:, None] * total / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ rows.mT)
    return (trace + mixed) / (n * (n - 3))


def entropy_rank(sigma: Tensor) -> Tensor:
    """exp(H(p)), p = σ / Σσ, of singular values (..., N)."""
    p = sigma / sigma.sum(dim=-1, keepdim=True)
    return torch.special.entr(p).sum(dim=-1).exp()
