"""The models. Importing this package registers them with timm."""

from skipvit.models.registry import create_model
from skipvit.models.skipat import PAPER_SKIP, SkipAtVisionTransformer, check_skip

__all__ = ["PAPER_SKIP", "SkipAtVisionTransformer", "check_skip", "create_model"]
