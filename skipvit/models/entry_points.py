"""What timm needs of a name besides a table of numbers: an entry point, and a description of the input."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from skipvit.models.timm_guard import timm


def entry_point(
    module: str, name: str, network: type[nn.Module], preset: Mapping[str, Any], about: str, **build: Any
) -> Callable[..., nn.Module]:
    """A function that builds ``network`` with the numbers of ``preset``, for timm's register_model.

    Args:
        module: where the name is registered; register_model looks for ``default_cfgs`` there.
        about: the entry point's docstring.
        build: further arguments of timm's build_model_with_cfg.
    """

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        model: nn.Module = timm.models.build_model_with_cfg(network, name, pretrained, **build, **{**preset, **kwargs})
        return model

    # timm takes an entry point's name and its module from the function
    create.__name__ = create.__qualname__ = name
    create.__module__ = module
    create.__doc__ = about
    # what skipvit.origin.task_of reads before anything is built
    create.task = network.task  # type: ignore[attr-defined]  # functions declare none
    return create


def denoiser_cfg(channels: int, side: int) -> dict[str, Any]:
    """timm's description of a denoiser's input; any size will do, there are no classes, no weights are published."""
    return {
        "url": "",
        "input_size": (channels, side, side),
        "fixed_input_size": False,
        "num_classes": None,
        "license": "apache-2.0",
    }
