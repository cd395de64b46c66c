// EcaGate: mean over tokens, convolution along the channels, sigmoid; skipvit/ops/eca_gate.py is the reference.
//
// x (B, n, C), weight (1, 1, taps) with taps odd, y (B, 1, C). A block has `slice` channels of one image, and the channels
// beside them that the convolution reaches: every input is read from DRAM once, and those few a second time from L2, 32
// bytes of each token on either side of a slice. Threads lie in rows, one row a token at a time, a thread holding the
// sums of a vector of channels. Tokens of one image are not shared out among blocks, which would need a second launch or
// memory of zeros: where images are few, slices are narrow and blocks large.

#include "device.cuh"

constexpr int MOST_THREADS = 1024;  // as in operators/eca_gate.py, which keeps slice and taps below 256 threads
constexpr int UNROLL = 4;           // tokens that a thread has under way

template <int V>
DEVICE void add_tokens(const Scalar* __restrict__ from, int token, int step, int tokens, int channels, float (&sum)[V]) {
  const size_t stride = size_t(step) * channels;
  from += size_t(token) * channels;
  for (; token + (UNROLL - 1) * step < tokens; token += UNROLL * step, from += UNROLL * stride) {
    float value[UNROLL][V];
#pragma unroll
    for (int i = 0; i < UNROLL; ++i) load(from + i * stride, value[i]);
#pragma unroll
    for (int i = 0; i < UNROLL; ++i)
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] += value[i][j];
  }
#pragma unroll 1
  for (; token < tokens; token += step, from += stride) {
    float value[V];
    load(from, value);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += value[j];
  }
}

template <int V>
DEVICE void gate(const Scalar* __restrict__ x, const Scalar* __restrict__ weight, int tokens, int channels, int taps,
                 int slice, Scalar* __restrict__ y, float* sums) {
  const int halo = (taps / 2 + V - 1) / V;  // vectors beside the slice, on each side
  const int columns = slice / V + 2 * halo, rows = blockDim.x / columns;
  const int slices = (channels + slice - 1) / slice;
  const int image = blockIdx.x / slices, start = blockIdx.x % slices * slice;
  const int column = threadIdx.x % columns, row = threadIdx.x / columns;
  const int channel = start + (column - halo) * V;

  float sum[V] = {};
  if (row < rows && channel >= 0 && channel < channels)
    add_tokens(x + size_t(image) * tokens * channels + channel, row, rows, tokens, channels, sum);
  if (row < rows)
    for (int i = 0; i < V; ++i) sums[(row * columns + column) * V + i] = sum[i];
  __syncthreads();

  // The first row's sums become the means of all tokens.
  for (int i = threadIdx.x; i < columns * V; i += blockDim.x) {
    float total = 0;
    for (int r = 0; r < rows; ++r) total += sums[r * columns * V + i];
    sums[i] = total / float(tokens);
  }
  __syncthreads();

  for (int i = threadIdx.x; i < slice && start + i < channels; i += blockDim.x) {
    float total = 0;
    for (int tap = 0; tap < taps; ++tap) total += to_float(weight[tap]) * sums[halo * V + i + tap - taps / 2];
    y[size_t(image) * channels + start + i] = as_scalar<Scalar>(1.0f / (1.0f + expf(-total)));
  }
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    ENTRY(eca_gate)(const Scalar* x, const Scalar* weight, int tokens, int channels, int taps, int slice, Scalar* y) {
  __shared__ float sums[MOST_THREADS * WIDE];
  if (channels % WIDE == 0)
    gate<WIDE>(x, weight, tokens, channels, taps, slice, y, sums);
  else
    gate<1>(x, weight, tokens, channels, taps, slice, y, sums);
}
