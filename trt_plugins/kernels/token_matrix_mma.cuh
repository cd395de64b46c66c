// The product on tensor cores. Part of token_matrix.cuh.
//
// A warp has 32 rows x 64 columns of the tile, the block steps through N in slices of DEPTH: while one slice is multiplied
// the next ones are copied to shared memory, 16 bytes at a time.
//
// Rows of a matrix with N odd begin anywhere, N = 197 halves are 394 bytes. They are copied as they lie all the same, from
// the last multiple of 16 bytes before the row: it then stands `shift` places to the right, 0 to 7. Rows 8 apart have one
// shift, for 8 * N halves are a multiple of 16 bytes; so a warp takes rows 8 apart, and undoes the shift where it costs
// nothing, in the rows of values that it reads. It needs up to 7 values of the slice before, for which the ring of
// values has room for one slice more.
//
// Bytes in shared memory are permuted in units of 16 so that the 8 rows that ldmatrix reads at once fall into all banks.
#pragma once

#include "async_copy.cuh"

constexpr int UNIT = 8;           // scalars in 16 bytes
constexpr int MEMORY = 44 << 10;  // bytes of shared memory that slices may take; a launch gets 48 KiB without asking

template <int OF>
struct Fitting {  // slices of this depth
  static constexpr int SLICES = (MEMORY - SHIFTED * OF * COLUMNS * 2) / (OF * (ROWS + COLUMNS) * 2);
};
constexpr int DEPTH = Fitting<32>::SLICES >= 3 ? 32 : 16;  // of a slice
constexpr int SLICES = Fitting<DEPTH>::SLICES < 4 ? Fitting<DEPTH>::SLICES : 4;
constexpr int RING = (SLICES + SHIFTED) * DEPTH;  // rows of values
constexpr int ROW_BYTES = 2 * DEPTH, MATRIX_BYTES = ROWS * ROW_BYTES, VALUE_BYTES = 2 * COLUMNS;
constexpr int SHARED_BYTES = SLICES * MATRIX_BYTES + RING * VALUE_BYTES;
static_assert(SLICES >= 2 && SHARED_BYTES <= MEMORY, "shared memory is too small");
static_assert(!SHIFTED || ROW_WARPS == 8, "a shift a warp");

// The tile's row in a slot of shared memory, where a warp's rows are together.
DEVICE int row_of_slot(int slot) { return SHIFTED ? slot / WARP_ROWS + slot % WARP_ROWS * 8 : slot; }

// Where units lie in a row of 2 or 4 units of the matrix, and of 8 or 16 units of values.
DEVICE int unit_of_row(int slot, int unit) { return unit ^ (DEPTH == 32 ? slot >> 1 & 3 : slot >> 2 & 1); }
DEVICE int unit_of_value(int row, int unit) { return unit ^ (row & 7); }

DEVICE int places_before(const Scalar* row) { return int(reinterpret_cast<size_t>(row) / sizeof(Scalar) % UNIT); }

DEVICE const Scalar* scalars_at(const unsigned char* shared) { return reinterpret_cast<const Scalar*>(shared); }

DEVICE int clamp(int x, int most) { return x < 0 ? 0 : x < most ? x : most; }

constexpr int ROW_UNITS = DEPTH / UNIT, ROW_STEP = THREADS / ROW_UNITS, ROW_COPIES = ROWS / ROW_STEP;
constexpr int VALUE_UNITS = COLUMNS / UNIT, VALUE_STEP = THREADS / VALUE_UNITS;
static_assert(ROWS % ROW_STEP == 0, "a thread without a row");

// A thread's part in copying slices: one unit of some rows of the matrix, and of some tokens.
struct Copies {
  const Scalar* row[ROW_COPIES];  // where the slice's unit is
  int left[ROW_COPIES];           // bytes of the row from there on
  const Scalar* value;            // of the slice's first token that is the thread's; null if there is none
  int token;                      // its number
  bool whole;                     // a unit of values is side by side in memory, and on a multiple of 16 bytes
};

DEVICE Copies first_copies(const Product& of, const Tile& tile) {
  Copies copies;
  const int unit = threadIdx.x % ROW_UNITS;
#pragma unroll
  for (int i = 0; i < ROW_COPIES; ++i) {
    const int row = tile.first_row + row_of_slot(threadIdx.x / ROW_UNITS + i * ROW_STEP);
    const Scalar* const begin = tile.matrix + size_t(row) * of.columns;
    const int start = unit * UNIT - (SHIFTED ? places_before(begin) : 0);
    copies.row[i] = begin + start;
    copies.left[i] = row < of.rows ? 2 * (of.columns - start) : 0;
  }
  const int column = threadIdx.x % VALUE_UNITS * UNIT;
  copies.token = threadIdx.x / VALUE_UNITS;
  copies.whole = of.width % UNIT == 0;
  copies.value = nullptr;
  if (tile.first_column + column < tile.all_columns)
    copies.value = of.x + start_of(of, tile, column, of.prefix + of.columns) +
                   size_t(of.prefix + copies.token) * (of.heads * of.width);
  return copies;
}

template <int SIZE>
DEVICE void copy_rows(Copies& copies, unsigned char* to) {
  const int unit = threadIdx.x % ROW_UNITS;
#pragma unroll
  for (int i = 0; i < ROW_COPIES; ++i) {
    const int slot = threadIdx.x / ROW_UNITS + i * ROW_STEP;
    unsigned char* const there = to + slot * ROW_BYTES + unit_of_row(slot, unit) * 16;
#pragma unroll
    for (int part = 0; part < 16; part += SIZE)
      copy_async<SIZE>(copies.row[i] + part / 2, clamp(copies.left[i] - part, SIZE), there + part);
    copies.row[i] += DEPTH;
    copies.left[i] -= 2 * DEPTH;
  }
}

DEVICE void copy_values(const Product& of, const Tile& tile, Copies& copies, unsigned char* to) {
  const int unit = threadIdx.x % VALUE_UNITS, channels = of.heads * of.width;
#pragma unroll
  for (int i = 0; i < DEPTH; i += VALUE_STEP) {
    const int row = threadIdx.x / VALUE_UNITS + i, token = copies.token + i;
    if (row >= DEPTH) break;
    unsigned char* const there = to + row * VALUE_BYTES + unit_of_value(row, unit) * 16;
    if (copies.whole) {
      const bool inside = copies.value && token < of.columns;
      copy_16_async(inside ? copies.value + size_t(i) * channels : of.x, inside, there);
      continue;
    }
#pragma unroll 1
    for (int j = 0; j < UNIT; ++j) {
      const int column = unit * UNIT + j;
      const bool inside = token < of.columns && tile.first_column + column < tile.all_columns;
      reinterpret_cast<Scalar*>(there)[j] =
          inside ? of.x[start_of(of, tile, column, of.prefix + of.columns) + size_t(of.prefix + token) * channels]
                 : Scalar{0};
    }
  }
  copies.token += DEPTH;
  if (copies.value) copies.value += size_t(DEPTH) * channels;
}

// Clears what a shifted row's first unit has of the row before. The thread that copied it does, once it is there.
DEVICE void clear_places_before(const Product& of, const Tile& tile, unsigned char* rows) {
  if (threadIdx.x % ROW_UNITS) return;
#pragma unroll 1
  for (int slot = threadIdx.x / ROW_UNITS; slot < ROWS; slot += ROW_STEP) {
    Scalar* const unit = reinterpret_cast<Scalar*>(rows + slot * ROW_BYTES + unit_of_row(slot, 0) * 16);
    const int places = places_before(tile.matrix + size_t(tile.first_row + row_of_slot(slot)) * of.columns);
#pragma unroll 1
    for (int i = 0; i < places; ++i) unit[i] = Scalar{0};
  }
}

// One slice: PAIRS x 16 columns of the warp's 64, the others are past the tile's end.
template <int PAIRS>
DEVICE void multiply_slice(float (&sum)[2][8][4], const unsigned char* rows, const unsigned char* values,
                           int first_value, int depth) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < DEPTH / 16; ++step) {
    if (step * 16 >= depth) return;
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slot = i * 16 + lane % 16;  // of the warp's
      load_matrices(scalars_at(rows + slot * ROW_BYTES + unit_of_row(slot, step * 2 + lane / 16) * 16), a[i]);
    }
    int token = first_value + step * 16 + lane % 16;
    if (token >= RING) token -= RING;
    const unsigned char* const value = values + token * VALUE_BYTES;
#pragma unroll
    for (int pair = 0; pair < PAIRS; ++pair) {
      uint32_t b[4];
      load_transposed(scalars_at(value + unit_of_value(token, pair * 2 + lane / 16) * 16), b);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        multiply_add(a[i], {b[0], b[1]}, sum[i][2 * pair]);
        multiply_add(a[i], {b[2], b[3]}, sum[i][2 * pair + 1]);
      }
    }
  }
}

// Four lanes' four words, word i of lane j for word j of lane i.
DEVICE void transpose_in_quad(uint32_t (&word)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = threadIdx.x & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const uint32_t theirs = __shfl_xor_sync(~0u, upper ? word[i] : word[i | bit], bit);
      (upper ? word[i] : word[i | bit]) = theirs;
    }
  }
}

// Stores a warp's sums, 8 columns of a row at once; for heads whose width is a multiple of 8.
DEVICE void store_units(const Product& of, const Tile& tile, const float (&sum)[2][8][4], int row_warp,
                        int column_warp) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, channels = of.heads * of.width;
#pragma unroll
  for (int four = 0; four < 8; four += 4) {
    const int column = column_warp * WARP_COLUMNS + (four + t) * UNIT;
    const bool mine = tile.first_column + column < tile.all_columns;
    Scalar* to = of.y;
    if (mine) to += start_of(of, tile, column, of.prefix + of.rows);
#pragma unroll
    for (int eight = 0; eight < 4; ++eight) {
      const int row = tile.first_row + row_of_slot(row_warp * WARP_ROWS + eight * 8 + g);
      const int i = eight / 2, low = eight % 2 * 2;
      Pack<uint32_t, 4> pack;
#pragma unroll
      for (int j = 0; j < 4; ++j) pack.at[j] = as_pair(sum[i][four + j][low], sum[i][four + j][low + 1]);
      transpose_in_quad(pack.at);
      if (mine && row < of.rows)
        *reinterpret_cast<Pack<uint32_t, 4>*>(to + size_t(of.prefix + row) * channels) = pack;
    }
  }
}

// Stores the block's sums one by one, through shared memory; for heads of any width.
DEVICE void store_scalars(const Product& of, const Tile& tile, const float (&sum)[2][8][4], int row_warp,
                          int column_warp, unsigned char* memory) {
  constexpr int HALF = ROWS / 2;  // of the tile, which has 16 rows of each warp
  static_assert(HALF * COLUMNS * sizeof(Scalar) <= SHARED_BYTES, "shared memory is too small");
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, channels = of.heads * of.width;
  uint32_t* const pairs = reinterpret_cast<uint32_t*>(memory);
  const int column = threadIdx.x % COLUMNS;
  Scalar* to = nullptr;
  if (tile.first_column + column < tile.all_columns)
    to = of.y + start_of(of, tile, column, of.prefix + of.rows) + size_t(of.prefix) * channels;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    __syncthreads();  // nobody reads what was there
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int pair = ((row_warp * 16 + g) * COLUMNS + column_warp * WARP_COLUMNS + j * 8 + 2 * t) / 2;
      pairs[pair] = as_pair(sum[i][j][0], sum[i][j][1]);
      pairs[pair + 8 * COLUMNS / 2] = as_pair(sum[i][j][2], sum[i][j][3]);
    }
    __syncthreads();
#pragma unroll 1
    for (int slot = threadIdx.x / COLUMNS; to && slot < HALF; slot += THREADS / COLUMNS) {
      const int row = tile.first_row + row_of_slot(slot / 16 * WARP_ROWS + i * 16 + slot % 16);
      if (row < of.rows) to[size_t(row) * channels] = scalars_at(memory)[slot * COLUMNS + column];
    }
  }
}

DEVICE void multiply(const Product& of) {
  __shared__ Pack<unsigned char, 16> shared[SHARED_BYTES / 16];
  unsigned char* const memory = reinterpret_cast<unsigned char*>(shared);
  unsigned char* const ring = memory + SLICES * MATRIX_BYTES;
  const Tile tile = tile_of_block(of);
  copy_prefix(of, tile);

  const int warp = threadIdx.x / 32, row_warp = warp % ROW_WARPS, column_warp = warp / ROW_WARPS;
  const int left = tile.all_columns - tile.first_column - column_warp * WARP_COLUMNS;
  const bool idle = left <= 0 || tile.first_row + row_of_slot(row_warp * WARP_ROWS) >= of.rows;
  const int shift = SHIFTED ? places_before(tile.matrix + size_t(tile.first_row + row_warp) * of.columns) : 0;
  const int depth = of.columns + SHIFTED * (UNIT - 1), slices = (depth + DEPTH - 1) / DEPTH;

  Copies copies = first_copies(of, tile);
  const auto copy_slice = [&](int stage, int place) {
    unsigned char* const to = memory + stage * MATRIX_BYTES;
    if (SHIFTED || of.columns % 8 == 0)
      copy_rows<16>(copies, to);
    else if (of.columns % 4 == 0)
      copy_rows<8>(copies, to);
    else
      copy_rows<4>(copies, to);
    copy_values(of, tile, copies, ring + place * VALUE_BYTES);
  };

  float sum[2][8][4] = {};
  if (SHIFTED)  // the values before the first are 0
    for (int i = threadIdx.x; i < UNIT * COLUMNS; i += THREADS)
      reinterpret_cast<Scalar*>(ring + (RING - UNIT) * VALUE_BYTES)[i] = Scalar{0};
#pragma unroll
  for (int slice = 0; slice < SLICES - 1; ++slice) {
    if (slice < slices) copy_slice(slice, slice * DEPTH);
    end_group();
  }
  int read = 0, read_place = 0, write = SLICES - 1, write_place = (SLICES - 1) * DEPTH;
#pragma unroll 1
  for (int slice = 0; slice < slices; ++slice) {
    wait_for_groups<SLICES - 2>();
    if (SHIFTED && slice == 0) clear_places_before(of, tile, memory);
    __syncthreads();  // this slice is there, and nobody reads the one before the last
    if (slice + SLICES - 1 < slices) copy_slice(write, write_place);
    end_group();
    const unsigned char* const own_rows = memory + read * MATRIX_BYTES + row_warp * WARP_ROWS * ROW_BYTES;
    const unsigned char* const own_values = ring + column_warp * WARP_COLUMNS * 2;
    const int first_value = read_place < shift ? read_place - shift + RING : read_place - shift;
    read = read + 1 == SLICES ? 0 : read + 1;
    write = write + 1 == SLICES ? 0 : write + 1;
    read_place = read_place + DEPTH == RING ? 0 : read_place + DEPTH;
    write_place = write_place + DEPTH == RING ? 0 : write_place + DEPTH;
    if (idle) continue;
    if (left > 32)
      multiply_slice<4>(sum, own_rows, own_values, first_value, depth - slice * DEPTH);
    else
      multiply_slice<2>(sum, own_rows, own_values, first_value, depth - slice * DEPTH);
  }
  if (!copies.whole)
    store_scalars(of, tile, sum, row_warp, column_warp, memory);
  else if (!idle)
    store_units(of, tile, sum, row_warp, column_warp);
}
