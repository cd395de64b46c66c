// TokenDwConvGelu: depthwise convolution of tokens on their grid, bias, exact GELU; skipvit/ops/token_dwconv_gelu.py is
// the reference.
//
// x (B, H, W, C), weight (C, 1, R, R) with R odd, bias (C), y (B, H, W, C); zeros outside the grid. A block has SLICE
// channels and WIDTH columns of one image, and goes down `rows` of its rows. Rows of x, with R/2 columns beside them on
// each side, come into a ring in shared memory RING - 1 rows ahead. Each is read from there once and added to the R rows
// of sums that it belongs to, which stay in registers; the topmost is then complete and leaves through GELU. From DRAM x
// is read once; what blocks read beside their columns and rows comes from L2.
//
// R * R products an output are more than a GPU's float32 units finish while 16-bit tokens stream past: at R = 5 they
// alone take most of the time of a copy on an H200. Tensor cores have room for it, though a convolution by channels
// gives them diagonal matrices, zeros but for one in eight. So 16-bit scalars whose channels come in eights go through
// mma; float32, other channels and Turing go through fma. In mma an infinite input gives the seven channels beside it
// NaN (infinity times zero); every input that is not finite still shows.

#include "async_copy.cuh"
#include "device.cuh"
#include "mma.cuh"

constexpr int R = KERNEL_SIZE, HALF = R / 2;
static_assert(R % 2 == 1 && R <= 9, "KERNEL_SIZE is odd, at most 9");

constexpr int THREADS = 256, SLICE = 64, WIDTH = 16;  // as in operators/token_dwconv_gelu.py
constexpr int COLUMNS = WIDTH + R - 1;
constexpr int PITCH = SLICE + WIDE;             // scalars from pixel to pixel: 16 bytes more, against bank conflicts
constexpr int RING = 16 / int(sizeof(Scalar));  // rows; a power of 2

struct Room {
  alignas(16) Scalar ring[RING][COLUMNS * PITCH];
  alignas(16) Scalar weight[SLICE * R * R];
#if TENSOR_CORES
  alignas(16) Scalar done[2][WIDTH * PITCH];  // rows of y on their way out
#endif
};

// What a block works on, and where that lies.
struct Part {
  const Scalar* x;  // the image
  Scalar* y;
  int height, width, channels;
  int channel, column, first, last;  // where the slice and the columns start; rows first..last of y
};

DEVICE float gelu(float x) {
#ifdef SCALAR_f32
  return 0.5f * x * (1.0f + erff(x * 0.70710678f));
#else
  // Φ(-z) = exp(-z²/2) t P(t), t = 1 / (1 + pz): the form of Abramowitz and Stegun 7.1.26, fitted anew for a relative
  // error below 3e-5 for z in 0..14, a sixteenth of float16's. Half of erff's instructions, and no loss in the tail.
  const float z = fabsf(x), t = reciprocal(1.0f + 0.376f * z), e = exp2_of(x * x * -0.72134752f);
  const float series = 0.149476898f + t * (0.157921677f + t * (0.0846821194f + t * (0.198789455f + t * -0.0908810055f)));
  const float below = series * t * e;
  return x * (x > 0.0f ? 1.0f - below : below);
#endif
}

// Brings rows of x into shared memory: where a thread's share of each row lies.
template <int V>
struct Fetcher {
  static constexpr int VECTORS = SLICE / V, PASSES = (COLUMNS * VECTORS + THREADS - 1) / THREADS;
  const Part& part;
  size_t from[PASSES];
  bool there[PASSES];

  INSIDE Fetcher(const Part& part) : part(part) {
#pragma unroll
    for (int i = 0; i < PASSES; ++i) {
      const int index = i * THREADS + threadIdx.x;
      const int column = part.column - HALF + index / VECTORS, channel = part.channel + index % VECTORS * V;
      there[i] = column >= 0 && column < part.width && channel < part.channels;
      from[i] = there[i] ? size_t(column) * part.channels + channel : 0;
    }
  }
  INSIDE void fetch(int row, Scalar* to) const {
    if (row < 0 || row >= part.height) return;
    const Scalar* line = part.x + size_t(row) * part.width * part.channels;
#pragma unroll
    for (int i = 0; i < PASSES; ++i) {
      const int index = i * THREADS + threadIdx.x;
      if (index >= COLUMNS * VECTORS) break;
      Scalar* place = to + index / VECTORS * PITCH + index % VECTORS * V;
      if (V > 1)
        copy_16_async(line + from[i], there[i], place);
      else
        *place = there[i] ? line[from[i]] : as_scalar<Scalar>(0.0f);
    }
  }
};

template <int V>
DEVICE void fetch_weight(const Part& part, const Scalar* weight, Scalar* to) {
  const int channels = part.channels - part.channel < SLICE ? part.channels - part.channel : SLICE;
  const Scalar* from = weight + size_t(part.channel) * R * R;
  for (int i = threadIdx.x * V; i < channels * R * R; i += THREADS * V) {
    if (V > 1)
      copy_16_async(from + i, true, to + i);
    else
      to[i] = from[i];
  }
}

// Sums by fma: a thread has one channel and four columns.
struct Plain {
  static constexpr int ACROSS = WIDTH * SLICE / THREADS;
  const Part& part;
  int channel, column;
  bool idle;
  float taps[R * R], bias, sums[R][ACROSS];

  INSIDE Plain(const Part& part, const Room& room, const Scalar* biases) : part(part) {
    channel = threadIdx.x % SLICE;
    column = threadIdx.x / SLICE * ACROSS;
    idle = part.channel + channel >= part.channels || part.column + column >= part.width;
    bias = idle ? 0.0f : to_float(biases[part.channel + channel]);
#pragma unroll
    for (int i = 0; i < R * R; ++i) taps[i] = idle ? 0.0f : to_float(room.weight[channel * R * R + i]);
#pragma unroll
    for (int slot = 0; slot < R; ++slot) clear(slot);
  }
  INSIDE void clear(int slot) {
#pragma unroll
    for (int i = 0; i < ACROSS; ++i) sums[slot][i] = bias;
  }
  // Adds a row of x; the row of sums that sees it through row dy of the taps is in slot (phase - dy) mod R.
  INSIDE void add(const Scalar* row, int phase) {
    if (idle) return;
    float x[ACROSS + R - 1];
#pragma unroll
    for (int i = 0; i < ACROSS + R - 1; ++i) x[i] = to_float(row[(column + i) * PITCH + channel]);
#pragma unroll
    for (int dy = 0; dy < R; ++dy)
#pragma unroll
      for (int dx = 0; dx < R; ++dx)
#pragma unroll
        for (int i = 0; i < ACROSS; ++i) sums[(phase - dy + R) % R][i] += x[i + dx] * taps[dy * R + dx];
  }
  INSIDE void finish(int slot, int row, Room&) {
    if (idle) return;
    const int across = part.column + column;
    Scalar* to = part.y + (size_t(row) * part.width + across) * part.channels + part.channel + channel;
#pragma unroll
    for (int i = 0; i < ACROSS; ++i)
      if (across + i < part.width) to[size_t(i) * part.channels] = as_scalar<Scalar>(gelu(sums[slot][i]));
  }
  INSIDE void leave(int, const Room&) const {}
};

#if TENSOR_CORES
// Sums by mma: a warp has eight channels and all columns; columns are rows of a and c, channels the columns of b and c,
// and k is eight channels at one tap, then at the tap beside it.
struct Diagonal {
  const Part& part;
  int g, t, slice;  // lane l is (l / 4, l % 4); first channel of the warp in the block's slice
  bool idle;
  uint32_t taps[R * R];
  float bias[2], sums[R][4];

  INSIDE Diagonal(const Part& part, const Room& room, const Scalar* biases) : part(part) {
    g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, slice = threadIdx.x / 32 * 8;
    idle = part.channel + slice >= part.channels;
#pragma unroll
    for (int i = 0; i < 2; ++i) bias[i] = idle ? 0.0f : to_float(biases[part.channel + slice + 2 * t + i]);
    const bool on_diagonal = !idle && g / 2 == t;
#pragma unroll
    for (int i = 0; i < R * R; ++i)
      taps[i] = on_diagonal ? uint32_t(room.weight[(slice + g) * R * R + i].bits) << 16 * (g % 2) : 0u;
#pragma unroll
    for (int slot = 0; slot < R; ++slot) clear(slot);
  }
  INSIDE void clear(int slot) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[slot][i] = bias[i % 2];
  }
  INSIDE void add(const Scalar* row, int phase) {
    if (idle) return;
    const int lane = threadIdx.x % 32;
    const Scalar* pixel = row + lane % 16 * PITCH + slice;
#pragma unroll
    for (int dx = 0; dx + 1 < R; dx += 2) {
      uint32_t x[4];
      load_matrices(pixel + (dx + lane / 16) * PITCH, x);
#pragma unroll
      for (int dy = 0; dy < R; ++dy) {
        const uint32_t pair[2] = {taps[dy * R + dx], taps[dy * R + dx + 1]};
        multiply_add(x, pair, sums[(phase - dy + R) % R]);
      }
    }
    uint32_t x[2];
    load_matrices(pixel + (R - 1) * PITCH, x);
#pragma unroll
    for (int dy = 0; dy < R; ++dy) multiply_add(x, taps[dy * R + R - 1], sums[(phase - dy + R) % R]);
  }
  // Into shared memory first: a warp has 16 bytes of each pixel, and DRAM is written in larger pieces.
  INSIDE void finish(int slot, int row, Room& room) {
    if (idle) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (part.column + 8 * i >= part.width) break;
      uint32_t* to = reinterpret_cast<uint32_t*>(room.done[row % 2] + (g + 8 * i) * PITCH + slice + 2 * t);
      *to = as_pair(gelu(sums[slot][2 * i]), gelu(sums[slot][2 * i + 1]));
    }
  }
  // After the next barrier the block writes the row.
  INSIDE void leave(int row, const Room& room) const {
    constexpr int VECTORS = SLICE / WIDE;
    for (int i = threadIdx.x; i < WIDTH * VECTORS; i += THREADS) {
      const int column = part.column + i / VECTORS, offset = i % VECTORS * WIDE;
      if (column >= part.width || part.channel + offset >= part.channels) continue;
      Scalar* to = part.y + (size_t(row) * part.width + column) * part.channels + part.channel + offset;
      typedef Pack<Scalar, WIDE> Vector;
      *reinterpret_cast<Vector*>(to) = *reinterpret_cast<const Vector*>(room.done[row % 2] + i / VECTORS * PITCH + offset);
    }
  }
};
typedef Diagonal Fast;
#else
typedef Plain Fast;
#endif

template <class Sums, int V>
DEVICE void convolve(const Part& part, const Scalar* weight, const Scalar* bias, Room& room) {
  const Fetcher<V> fetcher(part);
  const int top = part.first - HALF, steps = part.last - part.first + R - 1;
  fetch_weight<V>(part, weight, room.weight);
  for (int step = 0; step < RING - 1; ++step) {
    if (step < steps) fetcher.fetch(top + step, room.ring[step]);
    end_group();
  }
  wait_for_groups<RING - 2>();
  __syncthreads();

  Sums sums(part, room, bias);
  for (int base = 0; base < steps; base += R) {
#pragma unroll
    for (int phase = 0; phase < R; ++phase) {
      const int step = base + phase, row = top + step;
      if (step >= steps) break;
      wait_for_groups<RING - 2>();
      __syncthreads();  // the row is here, and nobody reads the one that the next fetch replaces
      if (step + RING - 1 < steps) fetcher.fetch(row + RING - 1, room.ring[(step + RING - 1) % RING]);
      end_group();
      if (step >= R) sums.leave(row - HALF - 1, room);
      if (row >= 0 && row < part.height) sums.add(room.ring[step % RING], phase);
      if (step >= R - 1) sums.finish((phase + 1) % R, row - HALF, room);
      sums.clear((phase + 1) % R);
    }
  }
  __syncthreads();
  sums.leave(part.last - 1, room);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    ENTRY(token_dwconv_gelu)(const Scalar* x, const Scalar* weight, const Scalar* bias, int height, int width,
                             int channels, int rows, Scalar* y) {
  __shared__ Room room;
  const int slices = (channels + SLICE - 1) / SLICE, across = (width + WIDTH - 1) / WIDTH;
  const int down = (height + rows - 1) / rows;
  const int slice = blockIdx.x % slices, column = blockIdx.x / slices % across;
  const int image = blockIdx.x / slices / across / down, first = blockIdx.x / slices / across % down * rows;
  const size_t start = size_t(image) * height * width * channels;
  const int last = first + rows < height ? first + rows : height;
  const Part part = {x + start, y + start, height, width, channels, slice * SLICE, column * WIDTH, first, last};
  if (channels % WIDE == 0)
    convolve<Fast, WIDE>(part, weight, bias, room);
  else
    convolve<Plain, 1>(part, weight, bias, room);
}
