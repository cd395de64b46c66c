"""Names of the video denoisers. Importing this module registers them with timm.

Each entry point is a table of numbers; the class knows nothing of names.
"""

from typing import Any

from skipvit.models.entry_points import denoiser_cfg, entry_point
from skipvit.models.timm_guard import timm
from skipvit.models.video_denoiser import VideoDenoiser

_SIZES: dict[str, dict[str, Any]] = {
    "micro": {"frames": 5, "dims": (16, 32, 64, 64), "depths": (1, 1, 1, 1), "num_heads": (0, 0, 4, 4)},
    "small": {
        "frames": 7,
        "patch": 2,
        "dims": (64, 128, 256),
        "depths": (1, 8, 2),
        "num_heads": (0, 4, 8),
        "window": 6,
    },
}
_PRESETS: dict[str, dict[str, Any]] = {
    **{f"video_denoiser_{size}": preset for size, preset in _SIZES.items()},
    **{f"skipat_video_denoiser_{size}": {**preset, "reuse": True} for size, preset in _SIZES.items()},
}
# Of a frame with its noise map. register_model looks for this name in the module of each entry point.
default_cfgs = timm.models.generate_default_cfgs(dict.fromkeys(_PRESETS, denoiser_cfg(4, 128)))

for _name, _preset in _PRESETS.items():
    _about = f"{_preset['frames']} frames, {_preset['dims']} channels, {_preset['depths']} blocks."
    # of what timm would fill in from the description, nothing is an argument here
    _build = entry_point(__name__, _name, VideoDenoiser, _preset, _about, kwargs_filter=("in_chans", "num_classes"))
    globals()[_name] = timm.models.register_model(_build)
