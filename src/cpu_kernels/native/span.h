// What stands for std::span, which C++17 does not have.
#pragma once

#include <cstddef>

struct Span {
  const float *data;
  size_t size;
};
