// Copies from global to shared memory that a thread starts, and waits for later: cp.async, from compute capability 8.0 on.
//
// A thread's copies since its last end_group() are one group; wait_for_groups<N>() waits until only its latest N are under
// way. Other threads see them after a barrier. Turing copies at once; the host copies when it waits, and not sooner, so
// that a test sees what reads too early.
#pragma once

#include "device.cuh"

// Copies the first `bytes` of SIZE and fills up with zeros. Both addresses are multiples of SIZE; of `from`, `bytes` are
// read, but it must be an address when they are none.
template <int SIZE>
DEVICE void copy_async(const void* from, int bytes, void* to) {
  static_assert(SIZE == 16 || SIZE == 8 || SIZE == 4, "copies are of 4, 8 or 16 bytes");
#if defined(SKIPVIT_HOST)
  host::copy_later(from, bytes, to, SIZE);
#elif __CUDA_ARCH__ >= 800
  const uint32_t shared = uint32_t(__cvta_generic_to_shared(to));
  if (SIZE == 16)  // not through L1
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(SIZE), "r"(bytes)
                 : "memory");
#else
  Pack<uint32_t, SIZE / 4> words = {};
  if (bytes == SIZE)
    words = *static_cast<const Pack<uint32_t, SIZE / 4>*>(from);
  else
    for (int i = 0; i < SIZE / 4; ++i) {
      const uint16_t* const halves = static_cast<const uint16_t*>(from) + 2 * i;
      if (4 * i + 2 <= bytes) words.at[i] = halves[0];
      if (4 * i + 4 <= bytes) words.at[i] |= uint32_t(halves[1]) << 16;
    }
  *static_cast<Pack<uint32_t, SIZE / 4>*>(to) = words;
#endif
}

// Copies 16 bytes, or writes 16 bytes of zeros where `there` is false.
DEVICE void copy_16_async(const void* from, bool there, void* to) { copy_async<16>(from, there ? 16 : 0, to); }

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
