"""The models. Importing this package registers them with timm."""

import skipvit.models.denoisers
import skipvit.models.video_presets  # noqa: F401 - both register theirs
from skipvit.models.choices import Choices
from skipvit.models.registry import create_model
from skipvit.models.spec import Spec
from skipvit.models.uformer import Uformer
from skipvit.models.video_denoiser import VideoDenoiser
from skipvit.models.vision_transformer import SkipVisionTransformer

__all__ = ["Choices", "SkipVisionTransformer", "Spec", "Uformer", "VideoDenoiser", "create_model"]
