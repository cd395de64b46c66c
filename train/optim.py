"""AdamW with weight decay on matrices only, and clipping that knows about shards."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def adamw(
    model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """AdamW; biases, norms, and what the model names (class token, position embedding) are not decayed."""
    names: Callable[[], Collection[str]] = getattr(model, "no_weight_decay", tuple)
    kept = names()
    plain = [p for name, p in model.named_parameters() if p.ndim <= 1 or name in kept]
    decayed = [p for name, p in model.named_parameters() if not (p.ndim <= 1 or name in kept)]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
    # fused: one call for all parameters. A small model on a CPU otherwise spends a tenth of its time here.
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scales all gradients so that their joint norm is at most ``max_norm`` (0: leaves them), and returns the norm."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = whole(nn.utils.get_total_norm(gradients))
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return float(norm)


def start_state(optimizer: torch.optim.Optimizer) -> None:
    """Gives every parameter the moments that AdamW would give it in its first step, for a resume to fill."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which each process may hold a shard; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
