// A GPU's block on one CPU core, so that tests run the very source that GPUs get.
//
// Every thread of a block is a fiber with a stack of its own. A barrier suspends it; when all threads of its block (or of
// its warp) have come, they go on. Blocks run one after the other, so a static array is a block's shared memory. What a
// GPU leaves undefined stops the program with a sentence: threads of a block at different barriers, or one that left.
// Between barriers a GPU's threads go on in any order, so here the order changes with each, forwards and backwards: what
// one thread reads and another writes without a barrier between comes out wrong. The orders are the same in each run;
// SKIPVIT_HOST_SEED=number gives others.
//
// Contexts of ucontext.h start the fibers; from then on they switch by setjmp and longjmp, which make no system call.
#pragma once

#include <math.h>
#include <setjmp.h>
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
#ifdef __ELF__  // whose linkers tell where such a section begins and ends
#define __shared__ static __attribute__((section("shared_memory")))
extern "C" __attribute__((weak, visibility("hidden"))) uint16_t __start_shared_memory[], __stop_shared_memory[];
#else
#define __shared__ static
#endif

namespace host {

struct Dim3 {
  int x, y, z;
};

// Half precision in whole numbers: not every compiler of C++ has a type for it.
inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
  uint32_t bits = sign | (exponent + 112u) << 23 | fraction << 13;
  if (exponent == 31u) bits = sign | 0x7f800000u | fraction << 13;
  float x;
  memcpy(&x, &bits, sizeof x);
  if (exponent == 0u) x = (sign ? -1.0f : 1.0f) * ldexpf(float(fraction), -24);
  return x;
}
inline uint16_t float_to_half(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffu;                       // NaN, as GPUs write it
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);     // 65520 and more round to infinity
  if (magnitude < 0x38800000u)                                       // below 2^-14: multiples of 2^-24
    return uint16_t(sign | uint32_t(nearbyintf(ldexpf(fabsf(x), 24))));
  return uint16_t(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

constexpr int WARP = 32;
constexpr int MOST_THREADS = 1024;  // of a block, on every GPU
constexpr size_t STACK = 64 << 10;
constexpr uint16_t NAN_BITS = 0x7fc1;  // NaN in float16 and bfloat16, and two of them in float32
enum class State { ready, at_warp_barrier, at_block_barrier, done };

struct Fiber {
  jmp_buf at;
  State state;
  bool started;
  ucontext_t start;
};

struct Block {
  jmp_buf scheduler;
  int threads, current;
  void (*body)(void*);
  void* closure;
};

inline Fiber fibers[MOST_THREADS];
inline Block block;
inline Dim3 thread_idx, block_idx, block_dim, grid_dim;
alignas(16) inline unsigned char exchange[MOST_THREADS][32];  // what the lanes of each warp show each other

struct Copy {
  const void* from;
  int bytes;  // of `size`, the rest is zero
  void* to;
  int size, group;
};
inline std::vector<Copy> copies[MOST_THREADS];  // that a thread has started, and not waited for
inline int groups[MOST_THREADS];                // that it has ended

inline void stop(const char* sentence) {
  fprintf(stderr, "kernel on the host: %s (block %d %d %d)\n", sentence, block_idx.x, block_idx.y, block_idx.z);
  abort();
}

inline void suspend(State state) {
  Fiber& fiber = fibers[block.current];
  fiber.state = state;
  if (_setjmp(fiber.at) == 0) _longjmp(block.scheduler, 1);
}

// What a fiber does for as long as the program runs: this thread of one block, then of the next.
inline void work() {
  for (;;) {
    block.body(block.closure);
    copies[block.current].clear();
    groups[block.current] = 0;
    suspend(State::done);
  }
}

inline void resume(int index) {
  Fiber& fiber = fibers[index];
  block.current = index;
  thread_idx = {index % block_dim.x, index / block_dim.x % block_dim.y, index / (block_dim.x * block_dim.y)};
  if (_setjmp(block.scheduler)) return;
  if (fiber.started) _longjmp(fiber.at, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

inline void prepare(Fiber& fiber) {
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = malloc(STACK);
  fiber.start.uc_stack.ss_size = STACK;
  if (!fiber.start.uc_stack.ss_sp) stop("no memory for another thread");
  makecontext(&fiber.start, work, 0);
}

// An order of so many things: from anywhere on, round, in one direction or the other.
class Order {
 public:
  explicit Order(int count) : count_(count) {
    state = state * 1664525u + 1013904223u;
    first_ = int((state >> 8) % uint32_t(count));
    backwards_ = state >> 31;
  }
  int operator()(int i) const { return (backwards_ ? first_ + count_ - i : first_ + i) % count_; }

 private:
  static uint32_t seed() {
    const char* const given = getenv("SKIPVIT_HOST_SEED");
    return given ? uint32_t(strtoul(given, nullptr, 10)) : 0u;
  }
  static inline uint32_t state = seed();
  int count_, first_;
  bool backwards_;
};

// Runs the threads first..last until each is at a block's barrier or done; releases barriers of the warp on the way.
inline void run_warp(int first, int last) {
  for (bool again = true; again;) {
    int waiting = 0, others = 0;
    const Order order(last - first);
    for (int j = first; j < last; ++j) {
      const int i = first + order(j - first);
      if (fibers[i].state == State::ready) resume(i);
      fibers[i].state == State::at_warp_barrier ? ++waiting : ++others;
    }
    if (waiting && others) stop("threads of one warp are at different barriers, or some have left");
    again = waiting > 0;
    for (int i = first; again && i < last; ++i) fibers[i].state = State::ready;
  }
}

inline void run_block() {
  const int threads = block.threads;
#ifdef __ELF__
  for (uint16_t* at = __start_shared_memory; at < __stop_shared_memory; ++at) *at = NAN_BITS;  // a GPU's holds anything
#endif
  for (int i = 0; i < threads; ++i) fibers[i].state = State::ready;
  for (;;) {
    int waiting = 0, done = 0;
    const int warps = (threads + WARP - 1) / WARP;
    const Order order(warps);
    for (int i = 0; i < warps; ++i) {
      const int first = order(i) * WARP;
      run_warp(first, first + WARP < threads ? first + WARP : threads);
    }
    for (int i = 0; i < threads; ++i) fibers[i].state == State::done ? ++done : ++waiting;
    if (!waiting) return;
    if (done) stop("some threads left while others wait at __syncthreads");
    for (int i = 0; i < threads; ++i) fibers[i].state = State::ready;
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
  block.threads = threads[0] * threads[1] * threads[2];
  if (block.threads < 1 || block.threads > MOST_THREADS) stop("a block has 1 to 1024 threads");
  for (int i = 0; i < block.threads; ++i)
    if (!fibers[i].started) prepare(fibers[i]);
  for (int z = 0; z < grid[2]; ++z)
    for (int y = 0; y < grid[1]; ++y)
      for (int x = 0; x < grid[0]; ++x) {
        block_idx = {x, y, z};
        run_block();
      }
}

// What lane `from` of the calling thread's warp holds; every lane of the warp calls it.
template <class T>
T exchange_lanes(T mine, int from) {
  static_assert(sizeof(T) <= sizeof exchange[0], "too large to be exchanged");
  const int thread = block.current, first = thread / WARP * WARP;
  if (first + from >= block.threads) stop("a lane asks one that its warp does not have");
  memcpy(exchange[thread], &mine, sizeof mine);
  suspend(State::at_warp_barrier);
  T theirs;
  memcpy(&theirs, exchange[first + from], sizeof theirs);
  suspend(State::at_warp_barrier);
  return theirs;
}

// What every lane of the calling thread's warp holds, in the order of the lanes; every lane of the warp calls it.
template <class T>
void gather_lanes(T mine, T (&all)[WARP]) {
  static_assert(sizeof(T) <= sizeof exchange[0], "too large to be exchanged");
  const int first = block.current / WARP * WARP;
  if (first + WARP > block.threads) stop("a lane asks one that its warp does not have");
  memcpy(exchange[block.current], &mine, sizeof mine);
  suspend(State::at_warp_barrier);
  for (int i = 0; i < WARP; ++i) memcpy(&all[i], exchange[first + i], sizeof(T));
  suspend(State::at_warp_barrier);
}

inline void copy_later(const void* from, int bytes, void* to, int size) {
  if (size_t(from) % size_t(size) || size_t(to) % size_t(size)) stop("a copy's address is not aligned");
  if (bytes < 0 || bytes > size) stop("a copy has more bytes than its size, or fewer than none");
  for (int i = 0; i < size / 2; ++i) static_cast<uint16_t*>(to)[i] = NAN_BITS;  // for who reads too early
  copies[block.current].push_back({from, bytes, to, size, groups[block.current]});
}
inline void end_group() { ++groups[block.current]; }
inline void wait_for_groups(int latest) {
  std::vector<Copy>& mine = copies[block.current];
  size_t done = 0;
  for (; done < mine.size() && mine[done].group < groups[block.current] - latest; ++done) {
    const Copy& copy = mine[done];
    memset(copy.to, 0, size_t(copy.size));
    memcpy(copy.to, copy.from, size_t(copy.bytes));
  }
  mine.erase(mine.begin(), mine.begin() + long(done));
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
#define HOST_ENTRY(kernel)                                                                                \
  extern "C" __attribute__((visibility("default"))) void host_launch(const int* grid, const int* threads, \
                                                                     void** arguments) {                  \
    host::launch(kernel, grid, threads, arguments);                                                       \
  }
