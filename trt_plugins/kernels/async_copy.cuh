// Copies from global to shared memory that a thread starts, and waits for later: cp.async, from compute capability 8.0 on.
//
// A thread's copies since its last end_group() are one group; wait_for_groups<N>() waits until only its latest N are under
// way. Other threads see them after a barrier. Turing copies at once; the host copies when it waits, and not sooner, so
// that a test sees what reads too early.
#pragma once

#include "device.cuh"

// Copies 16 bytes, or writes 16 bytes of zeros where `there` is false: `from` is not read then, but must be an address.
DEVICE void copy_16_async(const void* from, bool there, void* to) {
#if defined(SKIPVIT_HOST)
  host::copy_later(from, there, to);
#elif __CUDA_ARCH__ >= 800
  const uint32_t shared = uint32_t(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(there ? 16 : 0) : "memory");
#else
  struct alignas(16) Bytes {
    uint32_t at[4];
  };
  Bytes bytes = {};
  if (there) bytes = *static_cast<const Bytes*>(from);
  *static_cast<Bytes*>(to) = bytes;
#endif
}

DEVICE void end_group() {
#if defined(SKIPVIT_HOST)
  host::end_group();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int LATEST>
DEVICE void wait_for_groups() {
#if defined(SKIPVIT_HOST)
  host::wait_for_groups(LATEST);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory");
#endif
}
