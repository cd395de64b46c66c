// ReusedAttention: an image's attention matrix of an earlier layer times its values of this one;
// skipvit/ops/reused_attention.py is the reference, token_matrix.cuh the product.
//
// attention (B, h, N, N), v (B, N, h * d), y (B, N, h * d).

#include "token_matrix.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    ENTRY(reused_attention)(const Scalar* attention, const Scalar* v, int images, int heads, int tokens, int width,
                            Scalar* y) {
  multiply({v, attention, y, images, heads, tokens, tokens, width, 0, true});
}
