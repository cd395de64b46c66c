"""The models. Importing this package registers them with timm."""

import skipvit.models.denoisers  # noqa: F401 - registers them
from skipvit.models.registry import create_model
from skipvit.models.spec import Spec
from skipvit.models.uformer import Uformer
from skipvit.models.vision_transformer import Choices, SkipVisionTransformer

__all__ = ["Choices", "SkipVisionTransformer", "Spec", "Uformer", "create_model"]
