"""Names of models. Importing this module registers ours with timm, so ``timm.create_model`` builds them too.

Each entry point is a table of numbers; the classes know nothing of names.
"""

import difflib
from typing import Any

from torch import nn

from skipvit.models.choices import Choices
from skipvit.models.timm_guard import timm
from skipvit.models.vision_transformer import SkipVisionTransformer

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
_MICRO_SHAPE = {"img_size": 8, "patch_size": 2, "embed_dim": 64, "depth": 8, "num_heads": 4, "num_classes": 10}
# ViT-T/S/B; DeiT without its distillation token is the same network.
_SHAPES = {
    "tiny": {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
}
# SkipAt's is the released models' choice. For the others the abstract gives no numbers: DGSSA's blocks are the first
# third, and GLAD halves the tokens after a quarter of the depth and once more after half. With static attention up to
# there, that brings DeiT-S under the 2.1 GMACs that the abstract's +121 % needs. In ONNX Runtime at 224 px and batch 8
# it is 2.3 x as fast as DeiT-S; with three static blocks it was 2.17 x.
_SPECS = {
    "skipat": "skip:3-8",
    "dgssa": "static:0-3",
    "glad": "tokens:1/2@3,1/4@6",
    "dgssa_glad": "static:0-5 tokens:1/2@3,1/4@6",
}
# Much the same of 8 blocks and 16 patches; Φ's kernel is 3 on a 4 x 4 grid.
_MICRO_SPECS = {
    "skipat": "skip:2-5",
    "dgssa": "static:0-2",
    "glad": "tokens:1/2@2,1/4@4",
    "dgssa_glad": "static:0-1 tokens:1/2@2,1/4@4",
}
_PRESETS: dict[str, dict[str, Any]] = {
    **{f"{family}_micro_patch2_8": {**_MICRO_SHAPE, "spec": spec, "phi_kernel_size": 3}
       for family, spec in _MICRO_SPECS.items()},
    **{f"{family}_{size}_patch16_{pixels}": {**shape, "img_size": pixels, "spec": spec}
       for family, spec in _SPECS.items() for size, shape in _SHAPES.items() for pixels in (224, 384)},
}  # fmt: skip


def _input_of(name: str) -> dict[str, Any]:
    if "micro" in name:
        return _MICRO
    return _cfg(input_size=(3, 384, 384), crop_pct=1.0) if name.endswith("384") else _cfg()


# register_model looks for this name in the module of each entry point.
default_cfgs = timm.models.generate_default_cfgs(
    {"vit_micro_patch2_8": _MICRO, "converted_vit": _cfg(), **{name: _input_of(name) for name in _PRESETS}}
)


@register_model
def vit_micro_patch2_8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT for 8 x 8 pictures, 16 patches: the demo's baseline."""
    return _create_vision_transformer("vit_micro_patch2_8", pretrained=pretrained, **{**_MICRO_SHAPE, **kwargs})


@register_model
def converted_vit(pretrained: bool = False, base: str = "", spec: str = "", **kwargs: Any) -> nn.Module:
    """A plain ViT of timm's or ours under a spec; what skipvit-convert leaves behind.

    Args:
        base: the name of the ViT.
        spec: see skipvit/models/spec.py; further arguments are those of `Choices` and of the ViT.

    Raises:
        ValueError: the ViT does not exist or cannot take the spec, or pretrained weights were asked for.
    """
    if pretrained or not base:
        raise ValueError("converted_vit needs base='vit_...' and a spec, and has no pretrained weights of its own")
    choices = Choices(**{key: kwargs.pop(key) for key in Choices.__dataclass_fields__ if key in kwargs})
    kwargs = {key: value for key, value in kwargs.items() if key not in _WEIGHT_SOURCES}  # timm passes its defaults
    return SkipVisionTransformer.from_vit(create_model(base, **kwargs), spec, choices)


def _register(name: str, preset: dict[str, Any]) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return timm.models.build_model_with_cfg(
            SkipVisionTransformer,
            name,
            pretrained,
            pretrained_filter_fn=timm.models.vision_transformer.checkpoint_filter_fn,
            feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
            **{**preset, **kwargs},
        )

    # timm takes an entry point's name from the function
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"``{preset['spec']}``, {preset['embed_dim']} channels, {preset['depth']} blocks."
    globals()[name] = register_model(create)


for _name, _preset in _PRESETS.items():
    _register(_name, _preset)
