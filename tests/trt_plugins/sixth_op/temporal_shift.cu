// Step 3 of trt_plugins/README.md: TemporalShift. x (B, T, C) and y alike; a thread writes one scalar of one clip.

#include "device.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
    ENTRY(temporal_shift)(const Scalar* x, int frames, int channels, int fold, Scalar* y) {
  const int size = frames * channels, blocks = (size + THREADS - 1) / THREADS;  // of a clip
  const int at = blockIdx.x % blocks * THREADS + threadIdx.x;
  if (at >= size) return;
  const int frame = at / channels, channel = at % channels;
  const int step = channel < fold ? 1 : channel < 2 * fold ? -1 : 0;
  const bool beyond = frame + step < 0 || frame + step >= frames;
  const size_t clip = size_t(blockIdx.x / blocks) * size;
  y[clip + at] = beyond ? as_scalar<Scalar>(0.0f) : x[clip + at + step * channels];
}
