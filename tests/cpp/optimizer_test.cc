// The update, the EMA and the search for what is not finite, against what they must give.
#include "optimizer.h"

#include <cmath>
#include <limits>
#include <vector>

#include "checks.h"
#include "thread_pool.h"

int main() {
  limit_time();
  set_thread_count(3);
  constexpr size_t COUNT = 70001;  // three tasks
  std::vector<float> value(COUNT, 1.0f), moment(COUNT, 2.0f), gradient(COUNT, 3.0f);
  momentum_step({{value.data(), moment.data(), gradient.data(), COUNT, 0.5f}}, {0.25f, 0.5f, 0.0f, false});
  for (size_t i = 0; i < COUNT; ++i) CHECK(moment[i] == 4.5f && value[i] == -0.125f);

  // The point that is looked ahead to: 0 - 0.25 * (3 + 0.5 * (0.5 * 2 + 3)).
  value.assign(COUNT, 0.0f);
  moment.assign(COUNT, 2.0f);
  momentum_step({{value.data(), moment.data(), gradient.data(), COUNT, 0.5f}}, {0.25f, 0.5f, 0.0f, true});
  for (size_t i = 0; i < COUNT; ++i) CHECK(moment[i] == 4.0f && value[i] == -1.25f);

  // Two arrays of norm 3 and 4 are clipped together, from 5 to 1.
  std::vector<float> values(2, 0.0f), moments(2, 0.0f), gradients = {3.0f, 4.0f};
  momentum_step({{&values[0], &moments[0], &gradients[0], 1, 0.0f}, {&values[1], &moments[1], &gradients[1], 1, 0.0f}},
                {1.0f, 0.0f, 1.0f, false});
  CHECK(values[0] == -3.0f * 0.2f && values[1] == -4.0f * 0.2f);

  // A parameter with half of the learning rate: 0 - 0.5 * 0.25 * 3.
  values[0] = moments[0] = 0.0f;
  momentum_step({{&values[0], &moments[0], &gradients[0], 1, 0.0f, 0.5f}}, {0.25f, 0.0f, 0.0f, false});
  CHECK(values[0] == -0.375f);

  // AdamW's first update at half the rate, 0.125: the moments 2 and 9 become 2 / (1 - 0.5) and 9 / (1 - 0.75), so that
  // 0.125 * (0.5 * 1 + 4 / (6 + 2)) is taken away.
  value.assign(COUNT, 1.0f);
  moment.assign(COUNT, 1.0f);
  std::vector<float> second_moment(COUNT, 9.0f);
  adamw_step({{value.data(), moment.data(), gradient.data(), COUNT, 0.5f, 0.5f, second_moment.data()}},
             {0.25f, 1.0f, 0.5f, 0.75f, 2.0f, 0.0f});
  for (size_t i = 0; i < COUNT; ++i) CHECK(moment[i] == 2.0f && second_moment[i] == 9.0f && value[i] == 0.875f);

  // Clipped together, from 5 to 1. With betas of 0 there is nothing to correct, and each move is the whole rate.
  values.assign(2, 0.0f);
  std::vector<float> squares(2, 0.0f);
  adamw_step({{&values[0], &moments[0], &gradients[0], 1, 0.0f, 1.0f, &squares[0]},
              {&values[1], &moments[1], &gradients[1], 1, 0.0f, 1.0f, &squares[1]}},
             {1.0f, 1.0f, 0.0f, 0.0f, 1e-12f, 1.0f});
  CHECK(moments[0] == 3.0f * 0.2f && moments[1] == 4.0f * 0.2f);
  for (const float v : values) CHECK(std::abs(v + 1.0f) < 1e-6f);

  std::vector<float> ema(COUNT, 1.0f);
  value.assign(COUNT, 3.0f);
  ema_update({{ema.data(), value.data(), COUNT}}, 0.25f);
  for (const float e : ema) CHECK(e == 1.5f);

  const std::vector<Span> arrays = {{value.data(), COUNT}, {gradient.data(), COUNT}};
  gradient.back() = std::numeric_limits<float>::max();
  CHECK(are_finite(arrays));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    gradient.back() = bad;
    CHECK(!are_finite(arrays));
  }
}
