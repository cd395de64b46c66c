// StaticAttention: one matrix per head, the same for all images, times the image's values; skipvit/ops/static_attention.py
// is the reference, token_matrix.cuh the product.
//
// v (B, N, h * d), matrix (h, M, N), y (B, M, h * d).

#include "token_matrix.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    ENTRY(static_attention)(const Scalar* v, const Scalar* matrix, int images, int heads, int rows, int columns,
                            int width, Scalar* y) {
  multiply({v, matrix, y, images, heads, rows, columns, width, 0, false});
}
