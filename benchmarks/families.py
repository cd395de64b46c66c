"""What is compared: the families of models as their names begin, the forms of a model, and how tables call them."""

FAMILIES = {"vit": "ViT", "skipat": "SkipAt", "dgssa": "DGSSA", "glad": "GLAD", "dgssa_glad": "DGSSA+GLAD"}
EAGER, PLAIN, OURS, INT8 = "PyTorch", "timm export", "skipvit export", "skipvit export, int8"
DENOISERS = ("micro", "tiny", "small", "base")  # sizes of Uformer and SkipAt-Uformer
KERNELS, FORMULAS = "our kernels", "torch.compile alone"  # on a GPU
GPU_FORMS = {"kernels": KERNELS, "formulas": FORMULAS}
FORMS = {"pytorch": EAGER, "timm": PLAIN, "skipvit": OURS, "int8": INT8}  # as options call them; so are GPU_FORMS


def split_name(model: str) -> tuple[str, str]:
    """Family and size of a name such as ``dgssa_glad_small_patch16_224``."""
    family, size, _, _ = model.rsplit("_", 3)
    return family, size
