"""Names of the video denoisers. Importing this module registers them with timm.

Each entry point is a table of numbers; the class knows nothing of names.
"""

from typing import Any

from torch import nn

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
# timm's description of a frame with its noise map; any size will do, and no weights are published.
_CFG = {
    "url": "",
    "input_size": (4, 128, 128),
    "fixed_input_size": False,
    "num_classes": None,
    "license": "apache-2.0",
}

# register_model looks for this name in the module of each entry point.
default_cfgs = timm.models.generate_default_cfgs(dict.fromkeys(_PRESETS, _CFG))


def _register(name: str, preset: dict[str, Any]) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        # of what timm would fill in from the description, nothing is an argument here
        return timm.models.build_model_with_cfg(
            VideoDenoiser, name, pretrained, kwargs_filter=("in_chans", "num_classes"), **{**preset, **kwargs}
        )

    # timm takes an entry point's name from the function
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{preset['frames']} frames, {preset['dims']} channels, {preset['depths']} blocks."
    # what skipvit.origin.task_of reads before anything is built
    create.task = VideoDenoiser.task  # type: ignore[attr-defined]
    globals()[name] = timm.models.register_model(create)


for _name, _preset in _PRESETS.items():
    _register(_name, _preset)
