"""Names of models. Importing this module registers ours with timm, so ``timm.create_model`` builds them too.

Each entry point is a table of numbers; the classes know nothing of names.
"""

import difflib
from typing import Any

from torch import nn

from skipvit.models.skipat import SkipAtVisionTransformer
from skipvit.models.timm_guard import timm

register_model = timm.models.register_model
_create_vision_transformer = timm.models.vision_transformer._create_vision_transformer


# timm's ways to take weights from a file or an address. A checkpoint's description must not be able to name one.
_WEIGHT_SOURCES = {"cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"}


def create_model(name: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a model of this package or of timm by name; keyword arguments go to its constructor.

    Args:
        pretrained: fetch timm's weights of that name; needs the network.

    Raises:
        ValueError: the name is unknown, and the message gives the nearest ones; or an argument would load weights from
            elsewhere.
    """
    elsewhere = sorted(_WEIGHT_SOURCES & kwargs.keys())
    if elsewhere:
        raise ValueError(f"{', '.join(elsewhere)} would load weights from elsewhere; build the model, then load them")
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models() lists the names"
        raise ValueError(f"no model is named {name!r}{hint}")
    return timm.create_model(name, pretrained=pretrained, **kwargs)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    """timm's description of a model's input; no weights are published, so it names none."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        **kwargs,
    }


_MICRO = _cfg(
    num_classes=10,
    input_size=(3, 8, 8),
    crop_pct=1.0,
    interpolation="box",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

# register_model looks for this name in the module of each entry point.
default_cfgs = timm.models.generate_default_cfgs(
    {
        "vit_micro_patch2_8": _MICRO,
        "skipat_micro_patch2_8": _MICRO,
        "skipat_tiny_patch16_224": _cfg(),
        "skipat_small_patch16_224": _cfg(),
        "skipat_base_patch16_224": _cfg(),
    }
)


def _create_skipat(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return timm.models.build_model_with_cfg(
        SkipAtVisionTransformer,
        name,
        pretrained,
        pretrained_filter_fn=timm.models.vision_transformer.checkpoint_filter_fn,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        **kwargs,
    )


_MICRO_SHAPE = {"img_size": 8, "patch_size": 2, "embed_dim": 64, "depth": 8, "num_heads": 4, "num_classes": 10}


@register_model
def vit_micro_patch2_8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT for 8 x 8 pictures, 16 patches: the demo's baseline."""
    return _create_vision_transformer("vit_micro_patch2_8", pretrained=pretrained, **{**_MICRO_SHAPE, **kwargs})


@register_model
def skipat_micro_patch2_8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The demo's SkipAt: the middle half of 8 blocks skips, and Φ's kernel is 3 on a 4 x 4 grid."""
    skipping = {"skip": (2, 3, 4, 5), "phi_kernel_size": 3}
    return _create_skipat("skipat_micro_patch2_8", pretrained, **{**_MICRO_SHAPE, **skipping, **kwargs})


@register_model
def skipat_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SkipAt-T/16 of the paper, blocks 3 to 8 skipping."""
    shape = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
    return _create_skipat("skipat_tiny_patch16_224", pretrained, **{**shape, **kwargs})


@register_model
def skipat_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SkipAt-S/16 of the paper, blocks 3 to 8 skipping."""
    shape = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
    return _create_skipat("skipat_small_patch16_224", pretrained, **{**shape, **kwargs})


@register_model
def skipat_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SkipAt-B/16 of the paper, blocks 3 to 8 skipping."""
    shape = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return _create_skipat("skipat_base_patch16_224", pretrained, **{**shape, **kwargs})
