// The product without tensor cores, for float32 and for bfloat16 before sm_80: float32 products and sums.
//
// A thread has 8 x 8 elements of the tile, a stride apart. Part of token_matrix.cuh.
#pragma once

DEVICE void multiply(const Product& of) {
  constexpr int DEPTH = 16, EACH = 8;
  constexpr int PITCH = ROWS + 2;  // 16 columns of 2 rows, as a warp stores them, fall into 32 banks
  constexpr int ACROSS = COLUMNS / EACH, DOWN = ROWS / EACH;
  static_assert(ACROSS * DOWN == THREADS, "threads and tile do not match");
  __shared__ float a[DEPTH * PITCH];    // a column of the matrix a row
  __shared__ float v[DEPTH * COLUMNS];  // a token's values a row
  const Tile tile = tile_of_block(of);
  copy_prefix(of, tile);

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
#pragma unroll 2
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
