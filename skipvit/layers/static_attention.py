"""DGSSA's static attention (arXiv 2310.07664): a learned matrix per head in place of softmax(QKᵀ/√d).

    S = softmax_rows(L),   y = concat_h(S_h V_h) W_o + b_o,   V = x W_v + b_v          (W_q and W_k are gone)

The matrix belongs to one token count N. It inherits the dynamic attention it replaces: L = log Ā, where Ā is the mean
attention over a data set, minimises both E‖S − A(x)‖² and E KL(A(x) ‖ S). While a model is trained with a guide, the
dynamic branch stays beside the static one:  Â = (1 − λ) A(x) + λ S,  λ from 0 to 1.

Differences from the paper: this is a reconstruction from the abstract. Dense logits per head and layer, the mean as the
inheritance, the λ schedule and the KL guide are choices of this project; the abstract names none.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.layers.resample import resample_attention
from skipvit.ops import static_attention

Form = Literal["dense", "factorised"]
Grid = tuple[int, int]
# Below this a mean attention weight is as good as none; its logarithm must stay finite.
_SMALLEST = 1e-30


class StaticAttention(nn.Module):
    """Takes the place of timm's Attention: tokens (B, N, C) to the attention output (B, N, C).

    Args:
        attention: timm's Attention whose v and proj it takes over.
        num_tokens: N, prefix tokens included.
        form: ``dense`` logits (h, N, N), or ``factorised`` L = R₁R₂ with R₁ (h, N, f) and R₂ (h, f, N).
        rank: f of the factorised form.
        class_row: whether the first row is static too, or stays ``dynamic``: O(N C) work a head.
        guided: keeps queries and keys beside the matrix, to be trained with λ = ``guide``.

    Raises:
        ValueError: the attention is gated, or an option is none of the above.
    """

    guide: Tensor

    def __init__(
        self,
        attention: Any,
        num_tokens: int,
        form: Form = "dense",
        rank: int = 8,
        class_row: Literal["static", "dynamic"] = "static",
        guided: bool = False,
    ) -> None:
        super().__init__()
        if getattr(attention, "gate", None) is not None:
            raise ValueError("static attention has no gate; this attention has one and must stay dynamic")
        if form not in ("dense", "factorised") or class_row not in ("static", "dynamic") or rank < 1:
            raise ValueError(f"static attention is dense or factorised with a rank from 1 up, got {form!r}, {rank}")
        self.num_heads, self.head_dim, self.scale = attention.num_heads, attention.head_dim, attention.scale
        self.num_tokens, self.form, self.class_row = num_tokens, form, class_row
        like, heads = attention.proj.weight, attention.num_heads
        if form == "dense":
            self.logits = nn.Parameter(like.new_empty(heads, num_tokens, num_tokens))
        else:
            self.left = nn.Parameter(like.new_empty(heads, num_tokens, rank))
            self.right = nn.Parameter(like.new_empty(heads, rank, num_tokens))
        self.register_buffer("guide", torch.zeros((), device=like.device), persistent=False)
        self.reset_parameters()
        query_key, value = _split(attention.qkv)
        self.v, self.proj, self.proj_drop, self.norm = value, attention.proj, attention.proj_drop, attention.norm
        self.qk = query_key if guided or class_row == "dynamic" else None
        if self.qk is not None:
            self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.guided = guided
        self.guide_loss: Tensor | None = None

    def reset_parameters(self) -> None:
        """A matrix near the uniform one, and λ = 0; values and projection are layers, and start as such."""
        for parameter in self.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.guide.zero_()

    def matrix(self) -> Tensor:
        """S (h, N, N): rows of positive weights that sum to 1."""
        logits = self.logits if self.form == "dense" else self.left @ self.right
        return logits.softmax(dim=-1)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """Tokens (B, N, C) to (B, N, C).

        Raises:
            ValueError: N is not the count that the matrix was made for.
        """
        if x.shape[1] != self.num_tokens:
            raise ValueError(
                f"static attention was made for {self.num_tokens} tokens, got {x.shape[1]}; "
                "build the model for this picture size, or call set_input_size"
            )
        v, s = self.v(x), self.matrix()
        if self.guided:
            y = self._guided(x, v, s)
        else:
            y = static_attention(v, s.to(v.dtype))
        if self.class_row == "dynamic":
            y = torch.cat([self._class_row(x, v), y[:, 1:]], dim=1)
        return self.proj_drop(self.proj(self.norm(y)))

    def inherit(self, mean: Tensor) -> None:
        """Starts from a mean attention (h, N, N): S becomes it, exactly so in the dense form.

        The factorised form takes the nearest product of its rank to log Ā, each row's level aside, in least squares.
        """
        logits = mean.double().clamp_min(_SMALLEST).log()
        with torch.no_grad():
            if self.form == "dense":
                self.logits.copy_(logits)
                return
            rank = self.left.shape[-1]
            # a constant along a row changes no softmax: it is not worth a dimension
            u, s, v = torch.linalg.svd(logits - logits.mean(dim=-1, keepdim=True))
            root = s[:, :rank].sqrt()
            found = min(rank, s.shape[-1])
            for factor in (self.left, self.right):
                factor.zero_()
            self.left[:, :, :found] = (u[:, :, :found] * root[:, None, :]).to(self.left.dtype)
            self.right[:, :found] = (root[:, :, None] * v[:, :found]).to(self.right.dtype)

    def resample(self, old: Grid, new: Grid, prefix: int) -> None:
        """Carries the matrix over to another patch grid; the factorised form is fitted anew."""
        if old == new:
            return
        matrix = resample_attention(self.matrix().detach().double(), old, new, prefix)
        self.num_tokens = matrix.shape[-1]
        if self.form == "dense":
            self.logits = nn.Parameter(self.logits.new_empty(matrix.shape), self.logits.requires_grad)
        else:
            learns, rank = self.left.requires_grad, self.left.shape[-1]
            self.left = nn.Parameter(self.left.new_empty(self.num_heads, self.num_tokens, rank), learns)
            self.right = nn.Parameter(self.right.new_empty(self.num_heads, rank, self.num_tokens), learns)
        self.inherit(matrix)

    def _dynamic(self, x: Tensor, rows: Tensor) -> Tensor:
        """softmax(QKᵀ/√d) (B, h, M, N) of the queries ``rows`` (B, M, C)."""
        assert self.qk is not None
        weights, biases = self.qk.weight.chunk(2), (None, None) if self.qk.bias is None else self.qk.bias.chunk(2)
        q = self.q_norm(self._heads(F.linear(rows, weights[0], biases[0])))
        k = self.k_norm(self._heads(F.linear(x, weights[1], biases[1])))
        return (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)

    def _guided(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        a = self._dynamic(x, x)
        self.guide_loss = _divergence(a.detach(), s).mean()  # the dynamic branch teaches, and is not taught
        mixed = torch.lerp(a, s.to(a.dtype).expand_as(a), self.guide.to(a.dtype))
        y = mixed @ self._heads(v)  # (B, h, N, d)
        return y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)  # (B, h, N, d) -> (B, N, h*d)

    def _class_row(self, x: Tensor, v: Tensor) -> Tensor:
        y = self._dynamic(x, x[:, :1]) @ self._heads(v)  # (B, h, 1, d)
        return y.transpose(1, 2).reshape(x.shape[0], 1, -1)

    def _heads(self, x: Tensor) -> Tensor:
        # (B, N, h*d) -> (B, h, N, d)
        return x.reshape(x.shape[0], -1, self.num_heads, self.head_dim).transpose(1, 2)


def _divergence(a: Tensor, s: Tensor) -> Tensor:
    """KL(A ‖ S) per image, head and row: (B, h, N, N) and (h, N, N) to (B, h, N)."""
    return torch.special.xlogy(a, a).sum(-1) - (a * s.clamp_min(_SMALLEST).log()).sum(-1)


def _split(qkv: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """timm's packed projection as queries with keys, and values."""
    third = qkv.out_features // 3
    parts = []
    for rows in (slice(0, 2 * third), slice(2 * third, None)):
        weight = qkv.weight.detach()[rows].clone()
        part = nn.Linear(qkv.in_features, len(weight), bias=qkv.bias is not None, device="meta")  # draws no numbers
        part.weight = nn.Parameter(weight)
        if qkv.bias is not None:
            part.bias = nn.Parameter(qkv.bias.detach()[rows].clone())
        parts.append(part)
    return parts[0], parts[1]
