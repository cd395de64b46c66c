// A matrix times token-major values: y[b, p + m, c] = sum over n of matrix[m, n] * x[b, p + n, c], heads side by side.
//
// x (B, p + N, h * d), y (B, p + M, h * d); the matrix (h, M, N) serves all images, or (B, h, M, N) has one per image.
// The p rows in front are copied. A block makes a tile of y: some rows, and some columns of one head. With one matrix for
// all images the columns of a head run on through the images, B * d of them, so that narrow heads and single images fill a
// tile; with one per image they are the d of one image. Tiles that differ only in their rows are neighbours in the grid,
// then those that differ in the head: values come from DRAM once and again from L2, and the matrix stays in L2.
//
// The tile is a constant of the compilation, chosen in operators/token_matrix.py: ROW_WARPS x COLUMN_WARPS warps of 32 rows
// x 64 columns. SHIFTED is 1 if N may be odd; see token_matrix_mma.cuh.
//
// Tensors start at multiples of 16 bytes. B * d is below 2^31 and N below 2^30; offsets into tensors are 64 bits.
#pragma once

#include "mma.cuh"

#if !defined(ROW_WARPS) || !defined(COLUMN_WARPS) || !defined(SHIFTED)
#error "define ROW_WARPS, COLUMN_WARPS and SHIFTED"
#endif

constexpr int THREADS = 32 * ROW_WARPS * COLUMN_WARPS;
constexpr int BLOCKS = 512 / THREADS;  // on a multiprocessor at least: 128 registers a thread
constexpr int WARP_ROWS = 32, WARP_COLUMNS = 64;
constexpr int ROWS = ROW_WARPS * WARP_ROWS, COLUMNS = COLUMN_WARPS * WARP_COLUMNS;  // of a tile

struct Product {
  const Scalar *x, *matrix;
  Scalar* y;
  int images, heads, rows, columns, width, prefix;  // B, h, M, N, d, p
  bool own;                                         // a matrix per image
};

// What a block makes, from first_row and first_column on.
struct Tile {
  const Scalar* matrix;  // of the head and, if images have their own, of the image
  int head, image;       // the first image that columns count from
  int first_row, first_column, all_columns;
};

DEVICE Tile tile_of_block(const Product& of) {
  const int row_tiles = (of.rows + ROWS - 1) / ROWS;
  const int all_columns = of.own ? of.width : of.images * of.width;
  const int column_tiles = (all_columns + COLUMNS - 1) / COLUMNS;
  int block = blockIdx.x;
  const int row_tile = block % row_tiles;
  block /= row_tiles;
  const int head = block % of.heads;
  block /= of.heads;
  const int image = block / column_tiles;
  const Scalar* matrix = of.matrix + (size_t(image) * of.heads + head) * of.rows * of.columns;
  return {matrix, head, image, row_tile * ROWS, block % column_tiles * COLUMNS, all_columns};
}

// Where token 0 of a column of the tile lies in a tensor of so many tokens, for a column below all_columns.
DEVICE size_t start_of(const Product& of, const Tile& tile, int column, int tokens) {
  const int channels = of.heads * of.width, q = tile.first_column + column;
  return size_t(tile.image + q / of.width) * tokens * channels + tile.head * of.width + q % of.width;
}

// The rows in front, by the blocks of the first rows.
DEVICE void copy_prefix(const Product& of, const Tile& tile) {
  const int column = threadIdx.x % COLUMNS;
  if (tile.first_row != 0 || tile.first_column + column >= tile.all_columns) return;
  const size_t from = start_of(of, tile, column, of.prefix + of.columns);
  const size_t to = start_of(of, tile, column, of.prefix + of.rows);
  const int channels = of.heads * of.width;
  for (int row = threadIdx.x / COLUMNS; row < of.prefix; row += THREADS / COLUMNS)
    of.y[to + size_t(row) * channels] = of.x[from + size_t(row) * channels];
}

#if TENSOR_CORES
#include "token_matrix_mma.cuh"
#else
#include "token_matrix_float.cuh"
#endif
