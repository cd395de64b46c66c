// What geometry.h is written in: shapes of numbers, or of a builder's expressions, and launches.
#pragma once

#include <cstdint>
#include <initializer_list>

constexpr int MAX_RANK = 8, MAX_INPUTS = 4, MAX_ATTRIBUTES = 4, MAX_NUMBERS = 16;

struct Op {
  const char* name;
  int inputs, attributes;
  const char* attribute_names[MAX_ATTRIBUTES];
};

template <class D>
struct Shape {
  int rank = 0;
  D dims[MAX_RANK]{};
};

// `variant` is the kernel's place among those of its op; numbers go between its inputs and its output.
struct Launch {
  int variant = 0, count = 0;
  int64_t grid[3]{}, block[3]{}, numbers[MAX_NUMBERS]{};
};

inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
inline bool is(int64_t dim, int64_t value) { return dim == value; }

template <class D>
bool set_shape(Shape<D>& shape, std::initializer_list<D> dims) {
  for (const D& dim : dims) shape.dims[shape.rank++] = dim;
  return true;
}

inline bool set_launch(Launch& launch, int variant, std::initializer_list<int64_t> grid,
                       std::initializer_list<int64_t> block, std::initializer_list<int64_t> numbers) {
  int i = 0;
  for (int64_t size : grid) launch.grid[i++] = size;
  i = 0;
  for (int64_t size : block) launch.block[i++] = size;
  for (int64_t number : numbers) launch.numbers[launch.count++] = number;
  launch.variant = variant;
  return true;
}
