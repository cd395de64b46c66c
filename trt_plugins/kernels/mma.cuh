// Products of small matrices by a warp, on tensor cores: 16-bit scalars in, float32 sums. The host does the same in loops.
//
// Lane l of the warp is called (g, t) = (l / 4, l % 4). A register holds two scalars that lie side by side along k:
//   a (16 x 16): a[0] = (row g, k 2t), a[1] = (row g+8, k 2t), a[2] = (row g, k 2t+8), a[3] = (row g+8, k 2t+8);
//   b (16 x 8):  b[0] = (k 2t, column g), b[1] = (k 2t+8, column g);
//   c (16 x 8):  c[0], c[1] = (row g, columns 2t, 2t+1), c[2], c[3] = (row g+8, the same columns).
// With k of 8 only a[0], a[1] and b[0] are there. All lanes of a warp call each function together. (PTX ISA, matrix
// fragments for mma.m16n8k16 and mma.m16n8k8; ldmatrix.)
#pragma once

#include "device.cuh"

// Turing has none for bfloat16, and for float16 half the k.
#if defined(SCALAR_f32) || (!defined(SKIPVIT_HOST) && defined(SCALAR_bf16) && __CUDA_ARCH__ < 800)
#define TENSOR_CORES 0
#else
#define TENSOR_CORES 1
#endif

#if TENSOR_CORES

#ifdef SKIPVIT_HOST
template <int K>
struct Fragments {
  uint32_t a[K / 4], b[K / 8];
};

// c += a b, each lane for its own four of c, from what all lanes hold.
template <int K>
void multiply_on_host(float (&c)[4], const Fragments<K>& mine) {
  Fragments<K> all[host::WARP];
  host::gather_lanes(mine, all);
  const int lane = host::block.current % host::WARP;
  const auto scalar = [](uint32_t pair, int k) {
    Scalar x;
    x.bits = uint16_t(pair >> 16 * (k % 2));
    return to_float(x);
  };
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < K; ++k) {
      const float a = scalar(all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2], k);
      const float b = scalar(all[column * 4 + k % 8 / 2].b[k / 8], k);
      c[i] += a * b;
    }
  }
}
#endif

#if defined(SCALAR_f16)
#define MMA_TYPES "f32.f16.f16.f32"
#else
#define MMA_TYPES "f32.bf16.bf16.f32"
#endif

// c += a b with k of 8.
DEVICE void multiply_add(const uint32_t (&a)[2], uint32_t b, float (&c)[4]) {
#ifdef SKIPVIT_HOST
  multiply_on_host<8>(c, {{a[0], a[1]}, {b}});
#else
  asm("mma.sync.aligned.m16n8k8.row.col." MMA_TYPES " {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
#endif
}

// c += a b with k of 16.
DEVICE void multiply_add(const uint32_t (&a)[4], const uint32_t (&b)[2], float (&c)[4]) {
#ifdef SKIPVIT_HOST
  multiply_on_host<16>(c, {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
#elif __CUDA_ARCH__ < 800
  multiply_add({a[0], a[1]}, b[0], c);
  multiply_add({a[2], a[3]}, b[1], c);
#else
  asm("mma.sync.aligned.m16n8k16.row.col." MMA_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Loads N 8 x 8 matrices from shared memory: lane 8i + j has the address of row j of matrix i, 16 bytes, aligned. Of
// matrix i a lane gets to[i] = (row g, columns 2t and 2t+1). Lanes from 8N on pass any address in shared memory.
DEVICE void load_matrices(const Scalar* row, uint32_t (&to)[4]) {
#ifdef SKIPVIT_HOST
  const Scalar* rows[host::WARP];
  host::gather_lanes(row, rows);
  const int lane = host::block.current % host::WARP;
  for (int i = 0; i < 4; ++i) memcpy(&to[i], rows[8 * i + lane / 4] + lane % 4 * 2, 4);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}
DEVICE void load_matrices(const Scalar* row, uint32_t (&to)[2]) {
#ifdef SKIPVIT_HOST
  const Scalar* rows[host::WARP];
  host::gather_lanes(row, rows);
  const int lane = host::block.current % host::WARP;
  for (int i = 0; i < 2; ++i) memcpy(&to[i], rows[8 * i + lane / 4] + lane % 4 * 2, 4);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// The same of four matrices that are stored transposed: to[i] = (rows 2t and 2t+1, column g) of matrix i.
DEVICE void load_transposed(const Scalar* row, uint32_t (&to)[4]) {
#ifdef SKIPVIT_HOST
  const Scalar* rows[host::WARP];
  host::gather_lanes(row, rows);
  const int lane = host::block.current % host::WARP, column = lane / 4;
  for (int i = 0; i < 4; ++i) {
    const Scalar* const* const pair = rows + 8 * i + lane % 4 * 2;
    to[i] = pair[0][column].bits | uint32_t(pair[1][column].bits) << 16;
  }
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

#endif
