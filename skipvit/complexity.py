"""Parameters and multiply-accumulates of a model, counted by running it."""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_params(model: nn.Module) -> int:
    """Number of trainable and frozen parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates per image of convolutions and matrix products, attention's two products included.

    Args:
        images: an input of the model, (B, C, H, W); its values do not matter.
    """
    # PyTorch's counter has no rule for the CPU's fused attention; the plain form it stands for is counted instead.
    # Its hooks fail at a parameter that is viewed without gradients, as attention pooling does: none is let in.
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(model, weights, images)
    return counter.get_total_flops() // 2 // images.shape[0]
