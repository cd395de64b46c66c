"""Vision Transformers that skip attention (SkipAt, arXiv 2301.02240), from PyTorch to HTTP.

Importing this package loads neither torch nor timm, so that a server image needs neither;
``import skipvit.models`` loads both and registers the models with timm.
"""

__version__ = "0.1.0"
