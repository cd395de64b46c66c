"""Model repository to HTTP. Loads neither torch nor timm."""
