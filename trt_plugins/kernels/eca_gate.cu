// EcaGate: mean over tokens, convolution along the channels, sigmoid; skipvit/ops/eca_gate.py is the reference.
//
// x (B, n, C), weight (1, 1, taps) with taps odd, y (B, 1, C). A block has SLICE channels of one image, and the channels
// beside them that the convolution reaches: every input is read from DRAM once, and those few a second time from L2.
// Threads lie in rows, one row a token at a time, a thread holding the sums of a vector of channels.

#include "device.cuh"

constexpr int THREADS = 256;
constexpr int SLICE = 128;

template <int V>
DEVICE void gate(const Scalar* __restrict__ x, const Scalar* __restrict__ weight, int tokens, int channels, int taps,
                 Scalar* __restrict__ y, float* sums) {
  const int halo = (taps / 2 + V - 1) / V;  // vectors beside the slice, on each side
  const int columns = SLICE / V + 2 * halo, rows = THREADS / columns;
  const int slices = (channels + SLICE - 1) / SLICE;
  const int image = blockIdx.x / slices, start = blockIdx.x % slices * SLICE;
  const int column = threadIdx.x % columns, row = threadIdx.x / columns;
  const int channel = start + (column - halo) * V;

  float sum[V] = {};
  if (row < rows && channel >= 0 && channel < channels) {
    const Scalar* from = x + size_t(image) * tokens * channels + channel;
#pragma unroll 4
    for (int token = row; token < tokens; token += rows) {
      float value[V];
      load(from + size_t(token) * channels, value);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[i] += value[i];
    }
  }
  if (row < rows)
    for (int i = 0; i < V; ++i) sums[(row * columns + column) * V + i] = sum[i];
  __syncthreads();

  // The first row's sums become the means of all tokens.
  for (int i = threadIdx.x; i < columns * V; i += THREADS) {
    float total = 0;
    for (int r = 0; r < rows; ++r) total += sums[r * columns * V + i];
    sums[i] = total / float(tokens);
  }
  __syncthreads();

  for (int i = threadIdx.x; i < SLICE && start + i < channels; i += THREADS) {
    float total = 0;
    for (int tap = 0; tap < taps; ++tap) total += to_float(weight[tap]) * sums[halo * V + i + tap - taps / 2];
    y[size_t(image) * channels + start + i] = as_scalar<Scalar>(1.0f / (1.0f + expf(-total)));
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    ENTRY(eca_gate)(const Scalar* x, const Scalar* weight, int tokens, int channels, int taps, Scalar* y) {
  __shared__ float sums[THREADS * WIDE];
  if (channels % WIDE == 0)
    gate<WIDE>(x, weight, tokens, channels, taps, y, sums);
  else
    gate<1>(x, weight, tokens, channels, taps, y, sums);
}
