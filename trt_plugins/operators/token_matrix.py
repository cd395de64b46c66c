"""The grid of the kernels that multiply a matrix with token-major values: kernels/token_matrix.cuh."""

from trt_plugins.plugin_op import Dim, cdiv

THREADS = 256
_ODD, _EVEN = (256, 64), (128, 128)  # rows and columns of a block's tile, by the parity of the matrix's columns


def blocks(images: Dim, heads: Dim, rows: Dim, columns: Dim, width: Dim, own: bool) -> Dim:
    """Blocks of the grid, along x.

    Args:
        images, heads: the batch, and the heads that the channels are divided into.
        rows, columns: of the matrix.
        width: channels of a head.
        own: there is a matrix per image, else one for all.
    """
    even = columns // 2 * 2 + 1 - columns  # 1 or 0, also of a symbol
    odd = even * -1 + 1
    groups, across = (images, width) if own else (1, images * width)
    tiles = [cdiv(rows, tile[0]) * cdiv(across, tile[1]) for tile in (_ODD, _EVEN)]
    return (odd * tiles[0] + even * tiles[1]) * heads * groups
