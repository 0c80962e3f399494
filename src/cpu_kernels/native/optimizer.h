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

// moment = momentum * moment + gradient + weight_decay * value; value -= rate * moment.
void momentum_step(const std::vector<Trained> &parameters, float rate, float momentum);
