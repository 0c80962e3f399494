// Stochastic gradient descent with momentum over many small arrays in one pass.
#pragma once

#include <cstddef>
#include <vector>

struct Trained {
  float *value, *moment;
  const float *gradient;
  size_t count;
  float weight_decay;
};

struct Numbers {
  const float *first;
  size_t count;
};

// Whether there is neither a NaN nor an infinity among them.
bool are_finite(const std::vector<Numbers> &arrays);

struct MomentumRule {
  float rate, momentum;
  float clip_norm;  // what the norm of all gradients together is scaled down to; 0 leaves them as they are
  bool nesterov;
};

// With g = the clipped gradient + weight_decay * value: moment = momentum * moment + g; value -= rate * moment, or with
// Nesterov's look ahead value -= rate * (g + momentum * moment).
void momentum_step(const std::vector<Trained> &parameters, const MomentumRule &rule);

// mean += share * (value - mean), of arrays that are pairwise of one size.
struct Averaged {
  float *mean;
  const float *value;
  size_t count;
};
void follow(const std::vector<Averaged> &arrays, float share);
