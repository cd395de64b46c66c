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
// mma; float32, other channels and bfloat16 on Turing go through fma. In mma an infinite input gives the seven channels
// beside it NaN (infinity times zero); every input that is not finite still shows.

#include "async_copy.cuh"
#include "device.cuh"
#include "mma.cuh"

constexpr int R = KERNEL_SIZE, HALF = R / 2;
static_assert(R % 2 == 1 && R <= 9, "KERNEL_SIZE is odd, at most 9");

constexpr int THREADS = 256, SLICE = 64, WIDTH = 16;  // as in operators/token_dwconv_gelu.py
constexpr int COLUMNS = WIDTH + R - 1;
constexpr int PITCH = SLICE + WIDE;             // scalars from pixel to pixel: 16 bytes more, against bank conflicts
constexpr int RING = sizeof(Scalar) == 4 ? 4 : R <= 5 ? 2 * R : R;  // rows
// Blocks on a multiprocessor: as many as have registers without spilling, of 16-byte channels, by ptxas for compute
// capability 9.0. With RING, WIDTH and the rows of a block they are reasoned, not measured on a GPU: what is on its way to a
// multiprocessor of an H200, RING - 1 rows a block, should come to the 30 KB that its bandwidth takes to hide its latency.
constexpr int BLOCKS = R <= 3 ? 4 : R <= 5 ? 3 : R <= 7 ? 2 : 1;

struct Room {
  alignas(16) Scalar ring[RING][COLUMNS * PITCH];
  alignas(16) Scalar weight[SLICE * R * R];
  alignas(16) Scalar done[2][TENSOR_CORES ? WIDTH * PITCH : 1];  // rows of y on their way out
};

// What a block works on.
struct Part {
  const Scalar* x;  // the image
  Scalar* y;
  int height, width, channels;
  int channel, column, first, last;  // where the slice and the columns start; rows first..last of y

  INSIDE int stride() const { return width * channels; }  // from row to row
  INSIDE int at(int column, int channel) const { return column * channels + channel; }
};

// x Φ(x), with Φ(-z) = exp(-z²/2) t P(t) and t = 1 / (1 + pz): the form of Abramowitz and Stegun 7.1.26, fitted anew.
// For float32 Φ's error is that of rounding, and in the tail, where erff loses digits, 1e-5 of its value; for 16-bit
// scalars it is below 3e-5 of its value everywhere, a sixteenth of what rounding the result costs. Half of erff's
// instructions or fewer: they would take longer than the convolution.
DEVICE float gelu(float x) {
#ifdef SCALAR_f32
  constexpr float P = 0.34f, SERIES[] = {0.135961483f, 0.130409476f,  0.153911965f, -0.0253732829f,
                                         0.25831909f,  -0.197344412f, 0.0441156903f};
#else
  constexpr float P = 0.376f, SERIES[] = {0.149476898f, 0.157921677f, 0.0846821194f, 0.198789455f, -0.0908810055f};
#endif
  constexpr int TERMS = sizeof SERIES / sizeof SERIES[0];
  const float t = reciprocal(1.0f + P * fabsf(x)), e = exp2_of(x * x * -0.72134752f);
  float series = SERIES[TERMS - 1];
#pragma unroll
  for (int i = TERMS - 2; i >= 0; --i) series = SERIES[i] + t * series;
  const float below = series * t * e;
  return x * (x > 0.0f ? 1.0f - below : below);
}

// Brings rows of x into shared memory, from `row` on: where a thread's share of the next one lies.
template <int V>
struct Fetcher {
  static constexpr int VECTORS = SLICE / V, PASSES = (COLUMNS * VECTORS + THREADS - 1) / THREADS;
  const Part& part;
  int row;
  const Scalar* from[PASSES];
  bool there[PASSES];

  INSIDE Fetcher(const Part& part) : part(part), row(part.first - HALF) {
#pragma unroll
    for (int i = 0; i < PASSES; ++i) {
      const int index = i * THREADS + threadIdx.x;
      const int column = part.column - HALF + index / VECTORS, channel = part.channel + index % VECTORS * V;
      there[i] = column >= 0 && column < part.width && channel < part.channels;
      from[i] = part.x + (there[i] ? (long long)row * part.stride() + part.at(column, channel) : 0);
    }
  }
  INSIDE void fetch(Scalar* to) {
    const bool inside = row >= 0 && row < part.height && row < part.last + HALF;
#pragma unroll
    for (int i = 0; i < PASSES; ++i) {
      const int index = i * THREADS + threadIdx.x;
      if (inside && index < COLUMNS * VECTORS) {
        Scalar* place = to + index / VECTORS * PITCH + index % VECTORS * V;
        if (V > 1)
          copy_16_async(from[i], there[i], place);
        else
          *place = there[i] ? *from[i] : as_scalar<Scalar>(0.0f);
      }
      if (there[i]) from[i] += part.stride();
    }
    ++row;
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
  static constexpr int ACROSS = WIDTH * SLICE / THREADS, PHASES = R;
  const Part& part;
  int channel, column;  // in the block's part
  bool idle;
  Scalar* to;  // first of the columns in the next row of y
  float taps[R * R], bias, sums[R][ACROSS];

  INSIDE Plain(const Part& part, const Room& room, const Scalar* biases) : part(part) {
    channel = threadIdx.x % SLICE;
    column = threadIdx.x / SLICE * ACROSS;
    to = part.y + (long long)part.first * part.stride() + part.at(part.column + column, part.channel + channel);
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
  // Adds a row of x; the row of sums that sees it through row dy of the taps is in slot (phase - dy) mod R, a new one
  // through row 0.
  INSIDE void add(const Scalar* row, int phase) {
    clear(phase % R);
    if (idle) return;
    float x[ACROSS + R - 1];
#pragma unroll
    for (int i = 0; i < ACROSS + R - 1; ++i) x[i] = to_float(row[(column + i) * PITCH + channel]);
#pragma unroll
    for (int dy = 0; dy < R; ++dy)
#pragma unroll
      for (int dx = 0; dx < R; ++dx)
#pragma unroll
        for (int i = 0; i < ACROSS; ++i) sums[(phase + R - dy) % R][i] += x[i + dx] * taps[dy * R + dx];
  }
  INSIDE void finish(int slot, Scalar*) {
    if (idle) return;
#pragma unroll
    for (int i = 0; i < ACROSS; ++i)
      if (part.column + column + i < part.width) to[i * part.channels] = as_scalar<Scalar>(gelu(sums[slot][i]));
    to += part.stride();
  }
  INSIDE void leave(const Scalar*) {}
};

#if TENSOR_CORES
// Sums by mma: a warp has eight channels and all columns; columns are rows of a and c, channels the columns of b and c,
// and k is eight channels at one tap, then at the tap beside it.
struct Diagonal {
  static constexpr int PHASES = 2 * R;
  const Part& part;
  int slice;                 // first channel of the warp in the block's slice
  int four, two, mine, from; // in a row in shared memory: to load matrices, of the lane's sums, of 16 bytes for y
  Scalar* to;                // where those go in the next row of y
  bool idle, takes;
  uint32_t taps[R * R];
  float bias[2], sums[R][4];

  INSIDE Diagonal(const Part& part, const Room& room, const Scalar* biases) : part(part) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    slice = threadIdx.x / 32 * 8;
    four = (lane % 16 + lane / 16) * PITCH + slice, two = (lane % 16 + R - 1) * PITCH + slice;
    mine = g * PITCH + slice + 2 * t;
    idle = part.channel + slice >= part.channels;
    constexpr int VECTORS = SLICE / WIDE;
    static_assert(WIDTH * VECTORS <= THREADS, "a thread takes one vector to y");
    const int column = threadIdx.x / VECTORS, offset = threadIdx.x % VECTORS * WIDE;
    takes = column < WIDTH && part.column + column < part.width && part.channel + offset < part.channels;
    from = column * PITCH + offset;
    to = part.y + (long long)part.first * part.stride() + part.at(part.column + column, part.channel + offset);
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
    clear(phase % R);
#pragma unroll
    for (int dx = 0; dx + 1 < R; dx += 2) {
      uint32_t x[4];
      load_matrices(row + four + dx * PITCH, x);
#pragma unroll
      for (int dy = 0; dy < R; ++dy) {
        const uint32_t pair[2] = {taps[dy * R + dx], taps[dy * R + dx + 1]};
        multiply_add(x, pair, sums[(phase + R - dy) % R]);
      }
    }
    uint32_t x[2];
    load_matrices(row + two, x);
#pragma unroll
    for (int dy = 0; dy < R; ++dy) multiply_add(x, taps[dy * R + R - 1], sums[(phase + R - dy) % R]);
  }
  // Into shared memory first: a warp has 16 bytes of each pixel, and DRAM is written in larger pieces.
  INSIDE void finish(int slot, Scalar* done) {
    if (idle) return;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (part.column + 8 * i < part.width)
        *reinterpret_cast<uint32_t*>(done + mine + 8 * i * PITCH) =
            as_pair(gelu(sums[slot][2 * i]), gelu(sums[slot][2 * i + 1]));
  }
  // After the next barrier the block writes the row.
  INSIDE void leave(const Scalar* done) {
    typedef Pack<Scalar, WIDE> Vector;
    if (takes) *reinterpret_cast<Vector*>(to) = *reinterpret_cast<const Vector*>(done + from);
    to += part.stride();
  }
};
typedef Diagonal Fast;
#else
typedef Plain Fast;
#endif

template <class Sums, int V>
DEVICE void convolve(const Part& part, const Scalar* weight, const Scalar* bias, Room& room) {
  Fetcher<V> fetcher(part);
  fetch_weight<V>(part, weight, room.weight);
  for (int slot = 0; slot < RING - 1; ++slot) {
    fetcher.fetch(room.ring[slot]);
    end_group();
  }
  wait_for_groups<RING - 2>();
  __syncthreads();

  Sums sums(part, room, bias);
  const int steps = part.last - part.first + R - 1;
  const int above = part.first < HALF ? HALF - part.first : 0;  // steps whose row of x is above the image
  const int inside = part.height - (part.first - HALF);         // steps before those whose row is below it
  // Once unrolled, all that follows from `phase` alone is known when the kernel is compiled.
  constexpr int PHASES = Sums::PHASES;
  for (int base = 0; base < steps; base += PHASES) {
#pragma unroll
    for (int phase = 0; phase < PHASES; ++phase) {
      const int step = base + phase;
      if (step >= steps) break;
      const int turn = PHASES % RING ? step % RING : phase % RING, parity = PHASES % 2 ? step % 2 : phase % 2;
      wait_for_groups<RING - 2>();
      __syncthreads();  // the row is here, and nobody reads the one that the next fetch replaces
      fetcher.fetch(room.ring[(turn + RING - 1) % RING]);
      end_group();
      if (step >= R) sums.leave(room.done[1 - parity]);
      if (step >= above && step < inside)
        sums.add(room.ring[turn], phase);
      else
        sums.clear(phase % R);
      if (step >= R - 1) sums.finish((phase + 1) % R, room.done[parity]);
    }
  }
  __syncthreads();
  sums.leave(room.done[(steps + 1) % 2]);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
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
