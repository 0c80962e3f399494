// Numbers that the test programs compute with, the same in each run.
#pragma once

#include <cstddef>
#include <random>
#include <vector>

// Normally distributed; other ones at each call.
inline std::vector<float> random_floats(size_t count) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float &v : values) v = normal(generator);
  return values;
}
