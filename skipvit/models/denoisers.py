"""Names of the denoisers. Importing this module registers them with timm, so ``timm.create_model`` builds them too.

Each entry point is a table of numbers; the classes know nothing of names.
"""

from typing import Any

from torch import nn

from skipvit.models.timm_guard import timm
from skipvit.models.uformer import Uformer

# Uformer-T/S/B; a micro of two levels for the demo, whose 32-pixel multiple suits small tiles.
_PAPER = {"depths": (2, 2, 2, 2, 2, 2, 2, 2, 2), "num_heads": (1, 2, 4, 8, 16, 16, 8, 4, 2)}
_UFORMERS: dict[str, dict[str, Any]] = {
    "micro": {"embed_dim": 16, "depths": (1, 1, 1, 1, 1), "num_heads": (1, 2, 4, 4, 2), "drop_path_rate": 0.0},
    "tiny": {"embed_dim": 16, **_PAPER},
    "small": {"embed_dim": 32, **_PAPER},
    "base": {"embed_dim": 32, **_PAPER, "depths": (1, 2, 8, 8, 2, 8, 8, 2, 1)},
}
# In the micro Φ alone costs little enough to be worth skipping for.
_SKIPAT: dict[str, dict[str, Any]] = {"micro": {"skip": "all", "phi_proj": False}}
_PRESETS: dict[str, dict[str, Any]] = {
    **{f"uformer_{size}": preset for size, preset in _UFORMERS.items()},
    **{f"skipat_uformer_{size}": {**preset, **_SKIPAT.get(size, {"skip": "all"})}
       for size, preset in _UFORMERS.items()},
}  # fmt: skip
# timm's description of the input; any size will do, there are no classes, and no weights are published.
_CFG = {
    "url": "",
    "input_size": (3, 256, 256),
    "fixed_input_size": False,
    "num_classes": None,
    "license": "apache-2.0",
}

# register_model looks for this name in the module of each entry point.
default_cfgs = timm.models.generate_default_cfgs(dict.fromkeys(_PRESETS, _CFG))


def _register(name: str, preset: dict[str, Any]) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return timm.models.build_model_with_cfg(Uformer, name, pretrained, **{**preset, **kwargs})

    # timm takes an entry point's name from the function
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{preset['embed_dim']} channels, blocks {preset['depths']}, skip {preset.get('skip', '')!r}."
    # what skipvit.origin.task_of reads before anything is built
    create.task = Uformer.task  # type: ignore[attr-defined]
    globals()[name] = timm.models.register_model(create)


for _name, _preset in _PRESETS.items():
    _register(_name, _preset)
