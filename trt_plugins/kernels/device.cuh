// What every kernel is written in: scalars, 16-byte vectors, the names that a GPU gives for free.
//
// The same kernels compile for GPUs (nvcc, NVRTC; no header of the toolkit is needed) and, with SKIPVIT_HOST defined, for
// the CPU that tests run on; see host.h. A compilation knows one scalar, SCALAR_f32, SCALAR_f16 or SCALAR_bf16, which is
// part of the kernel's name: ENTRY(eca_gate) is eca_gate_f16. Sums are float32 throughout.
//
// A kernel takes what TensorRT's ahead-of-time plugins pass: pointers to its inputs, int32 numbers, pointers to its
// outputs. Its shared memory is static and below 48 KiB, the most that a launch gets without asking.
#pragma once

#ifdef SKIPVIT_HOST
#include "host.h"
#define DEVICE static inline
#define INSIDE inline  // of a class
#else
#define DEVICE static __device__ __forceinline__
#define INSIDE __device__ __forceinline__
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
#endif

struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#if defined(SCALAR_f32)
typedef float Scalar;
#define ENTRY(name) JOIN(name, _f32)
#elif defined(SCALAR_f16)
typedef f16 Scalar;
#define ENTRY(name) JOIN(name, _f16)
#elif defined(SCALAR_bf16)
typedef bf16 Scalar;
#define ENTRY(name) JOIN(name, _bf16)
#else
#error "define SCALAR_f32, SCALAR_f16 or SCALAR_bf16"
#endif

// --- conversions, rounding to nearest even ---

DEVICE float to_float(float x) { return x; }
DEVICE float bits_as_float(uint32_t bits) {
#ifdef SKIPVIT_HOST
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
#else
  return __uint_as_float(bits);
#endif
}
DEVICE uint32_t float_as_bits(float x) {
#ifdef SKIPVIT_HOST
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
#else
  return __float_as_uint(x);
#endif
}
DEVICE float to_float(bf16 x) { return bits_as_float(uint32_t(x.bits) << 16); }
DEVICE float to_float(f16 x) {
#ifdef SKIPVIT_HOST
  return host::half_to_float(x.bits);
#else
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#endif
}

DEVICE void from_float(float x, float& y) { y = x; }
DEVICE void from_float(float x, f16& y) {
#ifdef SKIPVIT_HOST
  y.bits = host::float_to_half(x);
#else
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#endif
}
DEVICE void from_float(float x, bf16& y) {
#if !defined(SKIPVIT_HOST) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
  const uint32_t bits = float_as_bits(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  y.bits = uint16_t(is_nan ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
}
template <class T>
DEVICE T as_scalar(float x) {
  T y;
  from_float(x, y);
  return y;
}

#ifndef SCALAR_f32
// Two scalars of 16 bits in one register, the first below.
DEVICE uint32_t as_pair(float low, float high) {
#if defined(SKIPVIT_HOST) || __CUDA_ARCH__ < 800
  return as_scalar<Scalar>(low).bits | uint32_t(as_scalar<Scalar>(high).bits) << 16;
#else
  uint32_t pair;
#ifdef SCALAR_f16
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
  return pair;
#endif
}
#endif

// --- functions that GPUs have an instruction for, to about 1e-7 of their value ---

DEVICE float exp2_of(float x) {
#ifdef SKIPVIT_HOST
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
DEVICE float reciprocal(float x) {
#ifdef SKIPVIT_HOST
  return 1.0f / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// --- vectors of up to 16 bytes, loaded and stored in one instruction ---

constexpr int WIDE = 16 / int(sizeof(Scalar));  // scalars in 16 bytes

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <int N, class T>
DEVICE void load(const T* from, float (&to)[N]) {
  const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = to_float(pack.at[i]);
}
template <int N, class T>
DEVICE void store(const float (&from)[N], T* to) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.at[i] = as_scalar<T>(from[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}
