"""GLAD's global aggregation (arXiv 2310.07664): n patch tokens become m < n, each a mean over all of them.

    Y = P X,   P = softmax_rows(M)                                    static (default): the same P for every image
               P = softmax_rows(Q LN(X)ᵀ/√d + M)                      content: Q (m, d) learned queries

Prefix tokens stay as they are. Both kinds start as average pooling (Q = 0), and learn to be global.

Differences from the paper: this is a reconstruction from the abstract, which says "linear dimension reduction" and
"global aggregation" and no more. Positions, token counts, the initialisation and both kinds are this project's.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.layers.resample import resample_columns, resample_rows
from skipvit.ops import token_pyramid

PyramidKind = Literal["static", "content"]
Grid = tuple[int, int]
_SMALLEST = 1e-30


class TokenPyramid(nn.Module):
    """Tokens (B, p + n, C) to (B, p + m, C).

    Args:
        dim: channels C.
        grid_in: (H, W) with n = H*W.
        grid_out: (H', W') with m = H'*W'.
        num_prefix_tokens: p, leading tokens that stay as they are.
        kind: ``static``, or ``content`` with queries.
        leak: share of every row that starts spread over all tokens. Average pooling alone would have weights of 0,
            whose logits no gradient moves.
    """

    def __init__(
        self,
        dim: int,
        grid_in: Grid,
        grid_out: Grid,
        num_prefix_tokens: int,
        kind: PyramidKind = "static",
        leak: float = 1e-4,
    ) -> None:
        super().__init__()
        if kind not in ("static", "content"):
            raise ValueError(f"a token pyramid is static or content, got {kind!r}")
        self.grid_in, self.grid_out, self.kind, self.num_prefix_tokens = grid_in, grid_out, kind, num_prefix_tokens
        n, m = grid_in[0] * grid_in[1], grid_out[0] * grid_out[1]
        self.logits = nn.Parameter(torch.empty(m, n))
        if kind == "content":
            self.norm = nn.LayerNorm(dim, eps=1e-6)
            self.queries = nn.Parameter(torch.empty(m, dim))
        self.leak = leak
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Average pooling, whatever the tokens are."""
        pooling = pooling_matrix(self.grid_in, self.grid_out).to(self.logits.device)
        self.inherit((1 - self.leak) * pooling + self.leak / pooling.shape[1])
        if self.kind == "content":
            nn.init.zeros_(self.queries)

    def inherit(self, matrix: Tensor) -> None:
        """Starts from rows (m, n) that sum to 1."""
        with torch.no_grad():
            self.logits.copy_(matrix.double().clamp_min(_SMALLEST).log())

    def matrix(self, patches: Tensor | None = None) -> Tensor:
        """P: (m, n) for the static kind, (B, m, n) for patch tokens (B, n, C) of the content kind."""
        logits = self.logits
        if self.kind == "content":
            assert patches is not None, "content-dependent queries need the tokens"
            keys = self.norm(patches)
            logits = self.queries.to(keys.dtype) @ keys.transpose(1, 2) * patches.shape[-1] ** -0.5 + logits
        return logits.softmax(dim=-1)

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Residual stream x, and the attention output z that a skipped block will reuse, to their fewer tokens.

        Returns:
            x and z (B, p + m, C), and the matrix that was applied.

        Raises:
            ValueError: N is not the count that the matrix was made for.
        """
        if x.shape[1] != self.num_prefix_tokens + self.logits.shape[1]:
            raise ValueError(
                f"this pyramid was made for {self.num_prefix_tokens} + {self.logits.shape[1]} tokens, "
                f"got {x.shape[1]}; build the model for this picture size, or call set_input_size"
            )
        matrix = self.matrix(x[:, self.num_prefix_tokens :]).to(x.dtype)
        return token_pyramid(x, matrix), None if z is None else token_pyramid(z, matrix.to(z.dtype)), matrix

    def resample(self, grid_in: Grid, grid_out: Grid) -> None:
        """Carries the matrix over to other grids; each query goes to the cells that take its place."""
        old_in, old_out = self.grid_in, self.grid_out
        if (old_in, old_out) == (grid_in, grid_out):
            return
        matrix = self.logits.detach().double().softmax(dim=-1)
        matrix = resample_columns(resample_rows(matrix, old_out, grid_out, 0), old_in, grid_in, 0)
        self.logits = nn.Parameter(self.logits.new_empty(matrix.shape), self.logits.requires_grad)
        self.inherit(matrix)
        if self.kind == "content":
            queries = resample_rows(self.queries.detach().double(), old_out, grid_out, 0)
            self.queries = nn.Parameter(queries.to(self.queries.dtype), self.queries.requires_grad)
        self.grid_in, self.grid_out = grid_in, grid_out


def pooling_matrix(grid_in: Grid, grid_out: Grid) -> Tensor:
    """Adaptive average pooling as a matrix (m, n) float64: row i holds the mean over the window of output token i."""
    n = grid_in[0] * grid_in[1]
    pictures = torch.eye(n, dtype=torch.float64).reshape(n, 1, *grid_in)  # one picture a token: (n, 1, H, W)
    return F.adaptive_avg_pool2d(pictures, grid_out).reshape(n, -1).t().contiguous()  # (n, 1, H', W') -> (m, n)


def unpool(tokens: Tensor, matrix: Tensor) -> Tensor:
    """Patch tokens (B, m, C) back to the n tokens that ``matrix`` (m, n) or (B, m, n) made them from: (B, n, C).

    Token j becomes the mean of the outputs it went into, weighted by how much of each was of it: U = Pᵀ, rows
    normalised.
    """
    back = matrix.transpose(-2, -1)
    return back / back.sum(dim=-1, keepdim=True).clamp_min(_SMALLEST) @ tokens
