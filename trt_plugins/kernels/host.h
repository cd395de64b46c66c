// A GPU's block on one CPU core, so that tests run the very source that GPUs get.
//
// Every thread of a block is a fiber with a stack of its own. A barrier suspends it; when all threads of its block (or of
// its warp) have come, they go on. Blocks run one after the other, so a static array is a block's shared memory. What a
// GPU leaves undefined stops the program with a sentence: threads of a block at different barriers, or one that left.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __restrict__ __restrict
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

namespace host {

struct Dim3 {
  int x, y, z;
};

inline float half_to_float(uint16_t bits) {
  _Float16 x;
  memcpy(&x, &bits, sizeof x);
  return float(x);
}
inline uint16_t float_to_half(float x) {
  const _Float16 half = _Float16(x);
  uint16_t bits;
  memcpy(&bits, &half, sizeof bits);
  return bits;
}

constexpr int WARP = 32;
constexpr size_t STACK = 64 << 10;
enum class State { ready, at_warp_barrier, at_block_barrier, done };

struct Fiber {
  ucontext_t context;
  State state;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<char> stacks;
  ucontext_t scheduler;
  int current = 0;
  void (*body)(void*) = nullptr;
  void* closure = nullptr;
};

inline Block block;
inline Dim3 thread_idx, block_idx, block_dim, grid_dim;
alignas(16) inline unsigned char exchange[WARP * 64][16];  // what the lanes of each warp show each other

inline void stop(const char* sentence) {
  fprintf(stderr, "kernel on the host: %s (block %d %d %d)\n", sentence, block_idx.x, block_idx.y, block_idx.z);
  abort();
}

inline void suspend(State state) {
  Fiber& fiber = block.fibers[size_t(block.current)];
  fiber.state = state;
  swapcontext(&fiber.context, &block.scheduler);
}

inline void enter() {
  block.body(block.closure);
  block.fibers[size_t(block.current)].state = State::done;
}

inline void resume(int index) {
  block.current = index;
  thread_idx = {index % block_dim.x, index / block_dim.x % block_dim.y, index / (block_dim.x * block_dim.y)};
  swapcontext(&block.scheduler, &block.fibers[size_t(index)].context);
}

// Runs the threads first..last until each is at a block's barrier or done; releases barriers of the warp on the way.
inline void run_warp(int first, int last) {
  for (bool again = true; again;) {
    int waiting = 0, others = 0;
    for (int i = first; i < last; ++i) {
      Fiber& fiber = block.fibers[size_t(i)];
      if (fiber.state == State::ready) resume(i);
      fiber.state == State::at_warp_barrier ? ++waiting : ++others;
    }
    if (waiting && others) stop("threads of one warp are at different barriers, or some have left");
    again = waiting > 0;
    for (int i = first; again && i < last; ++i) block.fibers[size_t(i)].state = State::ready;
  }
}

inline void run_block(int threads) {
  block.fibers.resize(size_t(threads));
  block.stacks.resize(size_t(threads) * STACK);
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[size_t(i)];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = block.stacks.data() + size_t(i) * STACK;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = &block.scheduler;
    makecontext(&fiber.context, enter, 0);
    fiber.state = State::ready;
  }
  for (;;) {
    int waiting = 0, done = 0;
    for (int first = 0; first < threads; first += WARP) run_warp(first, first + WARP < threads ? first + WARP : threads);
    for (const Fiber& fiber : block.fibers) fiber.state == State::done ? ++done : ++waiting;
    if (!waiting) return;
    if (done) stop("some threads left while others wait at __syncthreads");
    for (Fiber& fiber : block.fibers) fiber.state = State::ready;
  }
}

// Unpacks arguments as cuLaunchKernel takes them: an array of addresses.
template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
void launch(void (*kernel)(A...), const int* grid, const int* threads, void** arguments) {
  struct Closure {
    void (*kernel)(A...);
    void** arguments;
  } closure{kernel, arguments};
  block.closure = &closure;
  block.body = [](void* p) {
    Closure& c = *static_cast<Closure*>(p);
    call(c.kernel, c.arguments, std::index_sequence_for<A...>());
  };
  grid_dim = {grid[0], grid[1], grid[2]};
  block_dim = {threads[0], threads[1], threads[2]};
  for (int z = 0; z < grid[2]; ++z)
    for (int y = 0; y < grid[1]; ++y)
      for (int x = 0; x < grid[0]; ++x) {
        block_idx = {x, y, z};
        run_block(threads[0] * threads[1] * threads[2]);
      }
}

// What lane `from` of the calling thread's warp holds; every lane of the warp calls it.
template <class T>
T exchange_lanes(T mine, int from) {
  static_assert(sizeof(T) <= sizeof exchange[0], "too large to be exchanged");
  const int thread = block.current, first = thread / WARP * WARP;
  memcpy(exchange[thread], &mine, sizeof mine);
  suspend(State::at_warp_barrier);
  T theirs;
  memcpy(&theirs, exchange[first + from], sizeof theirs);
  suspend(State::at_warp_barrier);
  return theirs;
}

}  // namespace host

#define threadIdx host::thread_idx
#define blockIdx host::block_idx
#define blockDim host::block_dim
#define gridDim host::grid_dim

inline void __syncthreads() { host::suspend(host::State::at_block_barrier); }
inline void __syncwarp(unsigned = ~0u) { host::suspend(host::State::at_warp_barrier); }
template <class T>
T __shfl_sync(unsigned, T mine, int from) {
  return host::exchange_lanes(mine, from % host::WARP);
}
template <class T>
T __shfl_xor_sync(unsigned, T mine, int mask) {
  return host::exchange_lanes(mine, host::block.current % host::WARP ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T mine, int delta) {
  const int lane = host::block.current % host::WARP;
  return host::exchange_lanes(mine, lane + delta < host::WARP ? lane + delta : lane);
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }

// Gives Python a kernel by name: arguments as for cuLaunchKernel.
#define HOST_ENTRY(kernel)                                                                      \
  extern "C" void host_launch(const int* grid, const int* threads, void** arguments) {          \
    host::launch(kernel, grid, threads, arguments);                                             \
  }
