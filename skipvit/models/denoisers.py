"""Names of the denoisers. Importing this module registers them with timm, so ``timm.create_model`` builds them too.

Each entry point is a table of numbers; the classes know nothing of names.
"""

from typing import Any

from skipvit.models.entry_points import denoiser_cfg, entry_point
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
# register_model looks for this name in the module of each entry point.
default_cfgs = timm.models.generate_default_cfgs(dict.fromkeys(_PRESETS, denoiser_cfg(3, 256)))

for _name, _preset in _PRESETS.items():
    _about = f"{_preset['embed_dim']} channels, blocks {_preset['depths']}, skip {_preset.get('skip', '')!r}."
    globals()[_name] = timm.models.register_model(entry_point(__name__, _name, Uformer, _preset, _about))
