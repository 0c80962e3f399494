#include "optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "thread_pool.h"

// On one thread: a few million comparisons take less than waking another one.
bool are_finite(const std::vector<Span> &arrays) {
  constexpr uint32_t EXPONENT = 0x7f800000;  // all ones in a NaN and in an infinity
  for (const Span &array : arrays) {
    uint32_t found = 0;
    for (size_t i = 0; i < array.size; ++i) {
      uint32_t bits;
      std::memcpy(&bits, array.data + i, sizeof bits);
      found |= (bits & EXPONENT) == EXPONENT;
    }
    if (found) return false;
  }
  return true;
}

namespace {

struct Piece {
  size_t array, first, last;
};

// What each task works on: large arrays are cut, small ones are not. The cut depends on the sizes alone.
template <class Array> std::vector<Piece> pieces(const std::vector<Array> &arrays) {
  constexpr size_t PIECE = size_t{1} << 15;
  std::vector<Piece> cut;
  for (size_t a = 0; a < arrays.size(); ++a)
    for (size_t i = 0; i < arrays[a].size; i += PIECE) cut.push_back({a, i, std::min(i + PIECE, arrays[a].size)});
  return cut;
}

// What the gradients are multiplied by. Squares are added in double precision, one piece after the other.
float clip_factor(const std::vector<ParameterSpan> &parameters, const std::vector<Piece> &tasks, float clip_norm) {
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

// 1 - beta ^ updates. A difference of float32 numbers would have few digits in the first updates.
double bias_correction(float beta, float updates) { return -std::expm1(updates * std::log(static_cast<double>(beta))); }

}  // namespace

void momentum_step(const std::vector<ParameterSpan> &parameters, const MomentumRule &rule) {
  const std::vector<Piece> tasks = pieces(parameters);
  const float factor = rule.clip_norm > 0 ? clip_factor(parameters, tasks, rule.clip_norm) : 1.0f;
  const float momentum = rule.momentum;
  parallel(static_cast<int>(tasks.size()), [&](int i) {
    const ParameterSpan &p = parameters[tasks[i].array];
    float *__restrict value = p.value, *__restrict moment = p.moment;
    const float *__restrict gradient = p.gradient;
    const float rate = rule.rate * p.rate_factor, decay = p.weight_decay;
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

void adamw_step(const std::vector<ParameterSpan> &parameters, const AdamWRule &rule) {
  const std::vector<Piece> tasks = pieces(parameters);
  const float clip = rule.clip_norm > 0 ? clip_factor(parameters, tasks, rule.clip_norm) : 1.0f;
  const double correction = bias_correction(rule.beta1, rule.updates);
  const auto inverse_root = static_cast<float>(1 / std::sqrt(bias_correction(rule.beta2, rule.updates)));
  parallel(static_cast<int>(tasks.size()), [&](int i) {
    const ParameterSpan &p = parameters[tasks[i].array];
    float *__restrict value = p.value, *__restrict moment = p.moment, *__restrict second_moment = p.second_moment;
    const float *__restrict gradient = p.gradient;
    const float rate = rule.rate * p.rate_factor, decay = rate * p.weight_decay;
    const auto corrected_rate = static_cast<float>(rate / correction);
    // Copies of what the lambda sees by reference: compilers would load it for each element, and make no vectors.
    const float factor = clip, root = inverse_root, beta1 = rule.beta1, beta2 = rule.beta2, epsilon = rule.epsilon;
    const size_t first = tasks[i].first, last = tasks[i].last;
    for (size_t j = first; j < last; ++j) {
      const float g = factor * gradient[j];
      moment[j] = beta1 * moment[j] + (1.0f - beta1) * g;
      second_moment[j] = beta2 * second_moment[j] + (1.0f - beta2) * (g * g);
      value[j] -= decay * value[j] + corrected_rate * moment[j] / (root * std::sqrt(second_moment[j]) + epsilon);
    }
  });
}

void ema_update(const std::vector<EmaSpan> &arrays, float one_minus_decay) {
  const std::vector<Piece> tasks = pieces(arrays);
  parallel(static_cast<int>(tasks.size()), [&](int i) {
    float *__restrict ema = arrays[tasks[i].array].ema;
    const float *__restrict value = arrays[tasks[i].array].value;
    for (size_t j = tasks[i].first; j < tasks[i].last; ++j) ema[j] += one_minus_decay * (value[j] - ema[j]);
  });
}
