"""Uformer's locally-enhanced feed-forward network (arXiv 2106.03106, section 3.2): LeFF = FC2 ∘ DwC ∘ FC1.

The convolution between the two layers is where a token sees its neighbours.

Differences from the paper: none known; names and shapes of the weights are the released code's.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from skipvit.ops import token_dwconv_gelu

_KERNEL = 3


class LeFF(nn.Module):
    """Linear and GELU, depthwise 3 x 3 convolution and GELU, Linear.

    Args:
        dim: channels C.
        hidden: channels between the two linear layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # Sequences of one, because the released weights are named linear1.0, dwconv.0 and linear2.0.
        self.linear1 = nn.Sequential(nn.Linear(dim, hidden))
        self.dwconv = nn.Sequential(nn.Conv2d(hidden, hidden, _KERNEL, padding=_KERNEL // 2, groups=hidden))
        self.linear2 = nn.Sequential(nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C) to the same shape."""
        y = F.gelu(self.linear1(x))
        # Under autocast y may be in a lower precision than the weights that no autocast rule covers.
        weight, bias = (parameter.to(y.dtype) for parameter in self.dwconv[0].parameters())
        y = self.linear2(token_dwconv_gelu(y, weight, bias))
        return y
