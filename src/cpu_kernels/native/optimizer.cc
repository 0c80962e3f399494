#include "optimizer.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

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

void momentum_step(const std::vector<Trained> &parameters, float rate, float momentum) {
  constexpr size_t STRETCH = size_t{1} << 15;  // what one task updates: large arrays are shared, small ones are not
  struct Task {
    const Trained *parameter;
    size_t first, last;
  };
  std::vector<Task> tasks;
  for (const Trained &p : parameters)
    for (size_t i = 0; i < p.count; i += STRETCH) tasks.push_back({&p, i, std::min(i + STRETCH, p.count)});
  parallel(static_cast<int>(tasks.size()), [&](int i) {
    const Trained &p = *tasks[i].parameter;
    float *__restrict value = p.value, *__restrict moment = p.moment;
    const float *__restrict gradient = p.gradient;
    const float decay = p.weight_decay;
    for (size_t j = tasks[i].first; j < tasks[i].last; ++j) {
      moment[j] = momentum * moment[j] + (gradient[j] + decay * value[j]);
      value[j] -= rate * moment[j];
    }
  });
}
