// Forward, backward and inference over backbones of awkward sizes. The numbers themselves are compared with the
// framework's in Python; here they must only be finite, and the same with any number of threads.
#include "backbone.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "checks.h"
#include "thread_pool.h"

namespace {

struct Size {
  int images, height, width;
};

// Everything a run writes, one after the other.
std::vector<float> run(const std::vector<int32_t> &plan, const Size &size, int threads) {
  set_thread_count(threads);
  Backbone backbone(plan.data(), size.images, size.height, size.width);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const size_t layers = backbone.layers.size();
  std::vector<std::vector<float>> parameters, gradients;
  for (int which = 0; which < 5; ++which) {
    for (const Layer &l : backbone.layers) {
      std::vector<float> values(static_cast<size_t>(which == 0 ? l.taps() : 1) * l.out_channels);
      for (float &v : values) v = which == 0 ? normal(random) : which == 1 || which == 4 ? 1.0f : 0.1f;
      if (which < 3) gradients.emplace_back(values.size());
      parameters.push_back(std::move(values));
    }
  }
  std::vector<void *> pointers;
  std::vector<float *> outputs;
  pointers.reserve(parameters.size());
  outputs.reserve(gradients.size());
  for (auto &p : parameters) pointers.push_back(p.data());
  for (auto &g : gradients) outputs.push_back(g.data());
  std::vector<float> constants;
  for (size_t i = 0; i < layers; ++i) constants.insert(constants.end(), {1e-5f, 0.1f});
  backbone.bind(pointers.data(), constants.data());

  const Layer &last = backbone.last();
  std::vector<float> input(backbone.first().in_channels * backbone.first().in_pixels());
  std::vector<float> features(last.out_channels * last.out_pixels()), inferred(features.size());
  std::vector<float> features_gradient(features.size()), input_gradient(input.size()), saved(backbone.saved_floats());
  for (float &v : input) v = normal(random);
  for (float &v : features_gradient) v = normal(random);
  backbone.forward(input.data(), features.data(), saved.data());
  backbone.backward(input.data(), saved.data(), features_gradient.data(), outputs.data(), outputs.data() + layers,
                    outputs.data() + 2 * layers, input_gradient.data());
  backbone.infer(input.data(), inferred.data());

  std::vector<float> all;
  for (const auto *part : {&features, &inferred, &input_gradient}) all.insert(all.end(), part->begin(), part->end());
  for (const auto &part : gradients) all.insert(all.end(), part.begin(), part.end());
  for (const auto &part : parameters) all.insert(all.end(), part.begin(), part.end());
  return all;
}

}  // namespace

int main() {
  limit_time();
  // Batch statistics, pooled, layers, then kind, stride, activation, shortcut, input and output channels, SAME padding
  // of each.
  const std::vector<std::vector<int32_t>> plans = {
      {1, 0, 1, 0, 1, 1, -1, 1, 1, 0},
      {1, 0, 1, 0, 1, 0, -1, 19, 70, 0},
      {1, 0, 1, 1, 1, 1, -1, 17, 17, 0},
      {1, 0, 1, 1, 2, 1, -1, 33, 33, 0},
      {1, 0, 1, 2, 2, 1, -1, 3, 24, 0},
      {0, 0, 3, 0, 1, 1, -1, 8, 48, 0, 1, 1, 1, -1, 48, 48, 0, 0, 1, 0, 0, 48, 8, 0},
      {1, 0, 3, 0, 1, 1, -1, 8, 48, 0, 1, 2, 1, -1, 48, 48, 0, 0, 1, 0, -1, 48, 24, 0},
      {1, 0, 4, 0, 1, 0, -1, 4, 8, 0, 0, 1, 1, -1, 8, 48, 0, 1, 1, 1, -1, 48, 48, 0, 0, 1, 0, 1, 48, 8, 0},
      {1, 0, 2, 0, 1, 1, -1, 8, 48, 0, 1, 1, 1, 1, 48, 48, 0},  // the expanded tensor is read by a shortcut, too
      {1, 1, 4, 2, 2, 1, -1, 3, 8, 0, 1, 1, 1, -1, 8, 8, 0, 0, 1, 0, 1, 8, 8, 0, 0, 1, 1, -1, 8, 40, 0},
      {1, 0, 1, 1, 2, 1, -1, 33, 33, 1},
      {1, 0, 1, 2, 2, 1, -1, 3, 24, 1},
      {1, 0, 3, 0, 1, 1, -1, 8, 48, 1, 1, 2, 1, -1, 48, 48, 1, 0, 1, 0, -1, 48, 24, 1},
  };
  for (const auto &plan : plans) {
    for (const Size &size : {Size{1, 1, 1}, Size{2, 7, 5}, Size{3, 6, 20}, Size{9, 12, 11}}) {
      const std::vector<float> one = run(plan, size, 1);
      for (const int threads : {2, 3, 8}) {
        const std::vector<float> several = run(plan, size, threads);
        CHECK(std::memcmp(one.data(), several.data(), one.size() * sizeof(float)) == 0);
      }
      // The unbiased variance of a single pixel is not a number.
      if (size.images * size.height * size.width > 1 && size.height > 1)
        for (const float v : one) CHECK(std::isfinite(v));
    }
  }
}
