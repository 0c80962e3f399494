// The updates of the optimizers, SGD with momentum and AdamW, over many small arrays in one pass.
#pragma once

#include <cstddef>
#include <vector>

#include "span.h"

// One parameter with what belongs to it, arrays of one size.
struct ParameterSpan {
  float *value, *moment;
  const float *gradient;
  size_t size;
  float weight_decay;
  float rate_factor = 1.0f;        // the learning rate of this parameter is that of the rule times this
  float *second_moment = nullptr;  // AdamW has it, momentum does not
};

// Whether there is neither a NaN nor an infinity among them.
bool are_finite(const std::vector<Span> &arrays);

struct MomentumRule {
  float rate, momentum;
  float clip_norm;  // what the norm of all gradients together is scaled down to; 0 leaves them as they are
  bool nesterov;
};

// With g = the clipped gradient + weight_decay * value: moment = momentum * moment + g; value -= rate * moment, or with
// Nesterov's look ahead value -= rate * (g + momentum * moment).
void momentum_step(const std::vector<ParameterSpan> &parameters, const MomentumRule &rule);

struct AdamWRule {
  float rate;
  float updates;  // how many there have been, with this one
  float beta1, beta2, epsilon;
  float clip_norm;  // as that of MomentumRule
};

// With g = the clipped gradient: moment = beta1 * moment + (1 - beta1) * g;
// second_moment = beta2 * second_moment + (1 - beta2) * g * g; and, with both divided by 1 - beta ^ updates,
// value -= rate * weight_decay * value + rate * moment / (sqrt(second_moment) + epsilon).
void adamw_step(const std::vector<ParameterSpan> &parameters, const AdamWRule &rule);

// A parameter and its exponential moving average (EMA), arrays of one size.
struct EmaSpan {
  float *ema;
  const float *value;
  size_t size;
};
// ema += (1 - decay) * (value - ema).
void ema_update(const std::vector<EmaSpan> &arrays, float one_minus_decay);
