"""The models. Importing this package registers them with timm."""

from skipvit.models.registry import create_model
from skipvit.models.spec import Spec
from skipvit.models.vision_transformer import Choices, SkipVisionTransformer

__all__ = ["Choices", "SkipVisionTransformer", "Spec", "create_model"]
