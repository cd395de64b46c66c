"""Tiles and grid of the kernels that multiply a matrix with token-major values: kernels/token_matrix.cuh."""

from dataclasses import dataclass

from trt_plugins.plugin_op import Dim, cdiv


@dataclass(frozen=True)
class Tiles:
    """What a block makes: each of its warps 32 rows and 64 columns.

    Attributes:
        row_warps, column_warps: of a block.
        shifted: the kernel takes any number of the matrix's columns, else only even ones.
    """

    row_warps: int
    column_warps: int
    shifted: bool

    @property
    def block(self) -> tuple[int, int, int]:
        """Threads."""
        return (32 * self.row_warps * self.column_warps, 1, 1)

    def blocks(self, rows: Dim, across: Dim) -> Dim:
        """Blocks for the rows of a matrix, and for so many columns of values that it is multiplied with."""
        return cdiv(rows, 32 * self.row_warps) * cdiv(across, 64 * self.column_warps)

    @property
    def constants(self) -> dict[str, int]:
        """The kernel's macros."""
        return {"ROW_WARPS": self.row_warps, "COLUMN_WARPS": self.column_warps, "SHIFTED": int(self.shifted)}


def tiles(rows: Dim, columns: Dim, column_warps: int) -> Tiles:
    """Tiles for a matrix (rows, columns); dims that are not known yet get tiles that fit any."""
    if not isinstance(columns, int) or columns % 2:
        return Tiles(8, column_warps, shifted=True)
    return Tiles(2 if isinstance(rows, int) and rows <= 64 else 8, column_warps, shifted=False)
