// A matrix times token-major values: y[b, p + m, c] = sum over n of matrix[m, n] * x[b, p + n, c], heads side by side.
//
// x (B, p + N, h * d), y (B, p + M, h * d); the matrix (h, M, N) serves all images, or (B, h, M, N) has one per image.
// The p rows in front are copied. A block makes a tile of y: some rows, and some columns of one head. With one matrix for
// all images the columns of a head run on through the images, B * d of them, so that narrow heads and single images fill a
// tile; with one per image they are the d of one image. Tiles that differ only in their rows are neighbours in the grid,
// then those that differ in the head: values come from DRAM once and again from L2, and the matrix stays in L2.
//
// Counts and B * d are below 2^31; offsets into tensors are 64 bits.
#pragma once

#include "device.cuh"

constexpr int THREADS = 256;

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

template <int ROWS, int COLUMNS>
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
template <int COLUMNS>
DEVICE void copy_prefix(const Product& of, const Tile& tile) {
  const int column = threadIdx.x % COLUMNS;
  if (tile.first_row != 0 || tile.first_column + column >= tile.all_columns) return;
  const size_t from = start_of(of, tile, column, of.prefix + of.columns);
  const size_t to = start_of(of, tile, column, of.prefix + of.rows);
  const int channels = of.heads * of.width;
  for (int row = threadIdx.x / COLUMNS; row < of.prefix; row += THREADS / COLUMNS)
    of.y[to + size_t(row) * channels] = of.x[from + size_t(row) * channels];
}

// Without tensor cores: float32 products and sums; a thread has 8 x 8 elements of the tile, a stride apart.
template <int ROWS, int COLUMNS>
DEVICE void multiply_in_float(const Product& of, unsigned char* memory) {
  constexpr int DEPTH = 16, EACH = 8;
  constexpr int PITCH = ROWS + 2;  // 16 columns of 2 rows, as a warp stores them, fall into 32 banks
  constexpr int ACROSS = COLUMNS / EACH, DOWN = ROWS / EACH;
  static_assert(ACROSS * DOWN == THREADS, "threads and tile do not match");
  float* const a = reinterpret_cast<float*>(memory);  // (DEPTH, PITCH), a column of the matrix a row
  float* const v = a + DEPTH * PITCH;                 // (DEPTH, COLUMNS)
  const Tile tile = tile_of_block<ROWS, COLUMNS>(of);
  copy_prefix<COLUMNS>(of, tile);

  const int channels = of.heads * of.width, column = threadIdx.x % COLUMNS;
  const bool mine = tile.first_column + column < tile.all_columns;
  const Scalar* values = of.x;
  if (mine) values += start_of(of, tile, column, of.prefix + of.columns) + size_t(of.prefix) * channels;

  float sum[EACH][EACH] = {};
  const int tx = threadIdx.x % ACROSS, ty = threadIdx.x / ACROSS;
  for (int n0 = 0; n0 < of.columns; n0 += DEPTH) {
    const int n = n0 + threadIdx.x % DEPTH;
#pragma unroll
    for (int i = threadIdx.x / DEPTH; i < ROWS; i += THREADS / DEPTH) {
      const int row = tile.first_row + i;
      const bool inside = row < of.rows && n < of.columns;
      a[threadIdx.x % DEPTH * PITCH + i] = inside ? to_float(tile.matrix[size_t(row) * of.columns + n]) : 0.0f;
    }
#pragma unroll
    for (int k = threadIdx.x / COLUMNS; k < DEPTH; k += THREADS / COLUMNS)
      v[k * COLUMNS + column] = mine && n0 + k < of.columns ? to_float(values[size_t(n0 + k) * channels]) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      float left[EACH], right[EACH];
#pragma unroll
      for (int i = 0; i < EACH; ++i) left[i] = a[k * PITCH + ty + i * DOWN];
#pragma unroll
      for (int j = 0; j < EACH; ++j) right[j] = v[k * COLUMNS + tx + j * ACROSS];
#pragma unroll
      for (int i = 0; i < EACH; ++i)
#pragma unroll
        for (int j = 0; j < EACH; ++j) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
    }
    __syncthreads();
  }

#pragma unroll
  for (int j = 0; j < EACH; ++j) {
    const int own_column = tx + j * ACROSS;
    if (tile.first_column + own_column >= tile.all_columns) continue;
    Scalar* const to = of.y + start_of(of, tile, own_column, of.prefix + of.rows) + size_t(of.prefix) * channels;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int row = tile.first_row + ty + i * DOWN;
      if (row < of.rows) to[size_t(row) * channels] = as_scalar<Scalar>(sum[i][j]);
    }
  }
}

// Tiles by the parity of N, as in operators/token_matrix.py.
DEVICE void multiply(const Product& of) {
  __shared__ Pack<unsigned char, 16> memory[2816];
  if (of.columns % 2)
    multiply_in_float<256, 64>(of, reinterpret_cast<unsigned char*>(memory));
  else
    multiply_in_float<128, 128>(of, reinterpret_cast<unsigned char*>(memory));
}
