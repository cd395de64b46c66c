// TokenPyramid: m patch tokens from n, weighted sums of all of them; skipvit/ops/token_pyramid.py is the reference,
// token_matrix.cuh the product.
//
// x (B, prefix + n, C), matrix (m, n) or, with `own`, (B, m, n), y (B, prefix + m, C) with the prefix copied.

#include "token_matrix.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    ENTRY(token_pyramid)(const Scalar* x, const Scalar* matrix, int images, int rows, int columns, int channels,
                         int prefix, int own, Scalar* y) {
  multiply({x, matrix, y, images, 1, rows, columns, channels, prefix, own != 0});
}
