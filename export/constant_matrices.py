"""Static attention and static token pyramids as they are deployed: the softmax of their logits folded to a constant."""

from typing import Any

import torch
from torch import Tensor, nn

from skipvit.layers.static_attention import StaticAttention
from skipvit.layers.token_pyramid import TokenPyramid
from skipvit.ops import static_attention, token_pyramid


def foldable(module: Any) -> bool:
    """Whether a layer's matrix is one constant; a guided attention's is not, and content decides some pyramids'."""
    if isinstance(module, StaticAttention):
        keys_are_linear = module.qk is None or isinstance(module.k_norm, nn.Identity)
        return not module.guided and keys_are_linear
    return isinstance(module, TokenPyramid) and module.kind == "static"


class ConstantAttention(nn.Module):
    """A StaticAttention in eval mode: values, one constant product, projection."""

    matrix: Tensor

    def __init__(self, attention: StaticAttention) -> None:
        super().__init__()
        self.register_buffer("matrix", attention.matrix().detach())
        self.v, self.norm, self.proj = attention.v, attention.norm, attention.proj
        self.class_row = None if attention.qk is None else ClassRow(attention)

    def forward(self, x: Tensor, rows: Tensor | None = None, **_: Any) -> Tensor:
        """Attention output (B, M, C) of the first M tokens, ``rows``, or of all of x, over the N tokens x (B, N, C)."""
        count = x.shape[1] if rows is None else rows.shape[1]
        v = self.v(x)
        y = static_attention(v, self.matrix[:, :count])
        if self.class_row is not None:
            y = torch.cat([self.class_row(x, v), y[:, 1:]], dim=1)
        return self.proj(self.norm(y))


class ClassRow(nn.Module):
    """The class token's dynamic attention without a key for every token.

    qᵀ(W_k x + b_k) = (W_kᵀ q)ᵀ x + const, and softmax does not see the constant: N*C work a head, not N*C*d.
    """

    keys: Tensor

    def __init__(self, attention: StaticAttention) -> None:
        super().__init__()
        assert attention.qk is not None
        self.num_heads, self.head_dim, self.q_norm = attention.num_heads, attention.head_dim, attention.q_norm
        query, key = attention.qk.weight.detach().chunk(2)
        self.q = nn.Linear(query.shape[1], query.shape[0], bias=attention.qk.bias is not None, device="meta")
        self.q.weight = nn.Parameter(query.clone())
        if attention.qk.bias is not None:
            self.q.bias = nn.Parameter(attention.qk.bias.detach().chunk(2)[0].clone())
        # (h*d, C) -> (h, d, C), the scale of the scores inside
        self.register_buffer("keys", attention.scale * key.reshape(self.num_heads, self.head_dim, -1))

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        """Tokens and values (B, N, C) to the first token's attention (B, 1, C)."""
        batch = x.shape[0]
        q = self.q_norm(self.q(x[:, :1]).reshape(batch, self.num_heads, 1, self.head_dim))
        scores = (q @ self.keys).squeeze(2) @ x.transpose(1, 2)  # (B, h, C) x (B, C, N) -> (B, h, N)
        values = v.reshape(batch, -1, self.num_heads, self.head_dim).transpose(1, 2)  # (B, h, N, d)
        y = scores.softmax(dim=-1).unsqueeze(2) @ values  # (B, h, 1, d)
        return y.reshape(batch, 1, -1)


class ConstantPyramid(nn.Module):
    """A static TokenPyramid: one constant product."""

    matrix: Tensor

    def __init__(self, pyramid: TokenPyramid) -> None:
        super().__init__()
        self.grid_out = pyramid.grid_out
        self.register_buffer("matrix", pyramid.matrix().detach())

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor]:
        return token_pyramid(x, self.matrix), None if z is None else token_pyramid(z, self.matrix), self.matrix
