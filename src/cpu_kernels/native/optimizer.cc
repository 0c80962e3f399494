#include "optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "threads.h"

// On one thread: a few million comparisons take less than waking another one.
bool are_finite(const std::vector<Numbers> &arrays) {
  constexpr uint32_t EXPONENT = 0x7f800000;  // all ones in a NaN and in an infinity
  for (const Numbers &array : arrays) {
    uint32_t found = 0;
    for (size_t i = 0; i < array.count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, array.first + i, sizeof bits);
      found |= (bits & EXPONENT) == EXPONENT;
    }
    if (found) return false;
  }
  return true;
}

namespace {

struct Stretch {
  size_t array, first, last;
};

// What a task does: large arrays are shared, small ones are not. The cut depends on the sizes alone.
template <class Array> std::vector<Stretch> stretches(const std::vector<Array> &arrays) {
  constexpr size_t LENGTH = size_t{1} << 15;
  std::vector<Stretch> cut;
  for (size_t a = 0; a < arrays.size(); ++a)
    for (size_t i = 0; i < arrays[a].count; i += LENGTH) cut.push_back({a, i, std::min(i + LENGTH, arrays[a].count)});
  return cut;
}

// What the gradients are multiplied by. Squares are added in double precision, one stretch after the other.
float clip_factor(const std::vector<Trained> &parameters, const std::vector<Stretch> &tasks, float clip_norm) {
  std::vector<double> squares(tasks.size());
  parallel(static_cast<int>(tasks.size()), [&](int i) {
    const float *gradient = parameters[tasks[i].array].gradient;
    double sum = 0;
    for (size_t j = tasks[i].first; j < tasks[i].last; ++j) sum += static_cast<double>(gradient[j]) * gradient[j];
    squares[i] = sum;
  });
  const double norm = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
  return norm > clip_norm ? static_cast<float>(clip_norm / norm) : 1.0f;
}

}  // namespace

void momentum_step(const std::vector<Trained> &parameters, const MomentumRule &rule) {
  const std::vector<Stretch> tasks = stretches(parameters);
  const float factor = rule.clip_norm > 0 ? clip_factor(parameters, tasks, rule.clip_norm) : 1.0f;
  const float rate = rule.rate, momentum = rule.momentum;
  parallel(static_cast<int>(tasks.size()), [&](int i) {
    const Trained &p = parameters[tasks[i].array];
    float *__restrict value = p.value, *__restrict moment = p.moment;
    const float *__restrict gradient = p.gradient;
    const float decay = p.weight_decay;
    const size_t first = tasks[i].first, last = tasks[i].last;
    if (rule.nesterov) {
      for (size_t j = first; j < last; ++j) {
        const float g = factor * gradient[j] + decay * value[j];
        moment[j] = momentum * moment[j] + g;
        value[j] -= rate * (g + momentum * moment[j]);
      }
    } else {
      for (size_t j = first; j < last; ++j) {
        moment[j] = momentum * moment[j] + (factor * gradient[j] + decay * value[j]);
        value[j] -= rate * moment[j];
      }
    }
  });
}

void follow(const std::vector<Averaged> &arrays, float share) {
  const std::vector<Stretch> tasks = stretches(arrays);
  parallel(static_cast<int>(tasks.size()), [&](int i) {
    float *__restrict mean = arrays[tasks[i].array].mean;
    const float *__restrict value = arrays[tasks[i].array].value;
    for (size_t j = tasks[i].first; j < tasks[i].last; ++j) mean[j] += share * (value[j] - mean[j]);
  });
}
