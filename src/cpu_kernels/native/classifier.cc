#include "classifier.h"

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "depthwise.h"
#include "tasks.h"
#include "thread_pool.h"

namespace {

constexpr int TILE_CLASSES = 4, TILE_IMAGES = 2;  // eight sums hide what a multiply_add takes, on 16 registers, too
constexpr int TASK_CLASSES = 4 * TILE_CLASSES;

float sum(const Register &v) {
  float lanes[REGISTER_LANES];
  store(lanes, v);
  for (int half = REGISTER_LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// A tile of the logits. Rows of features, weights and logits begin `channels`, `channels` and `classes` floats apart.
template <int IMAGES, int CLASSES>
void classify_tile(const float *features, int channels, const float *weight, const float *bias, int classes,
                   float *logits) {
  Register sums[IMAGES][CLASSES] = {};
  const int whole = channels / REGISTER_LANES * REGISTER_LANES;
  for (int channel = 0; channel < whole; channel += REGISTER_LANES) {
    Register values[IMAGES];
    for (int i = 0; i < IMAGES; ++i) load(features + static_cast<size_t>(i) * channels + channel, values[i]);
    for (int c = 0; c < CLASSES; ++c) {
      Register weights;
      load(weight + static_cast<size_t>(c) * channels + channel, weights);
      for (int i = 0; i < IMAGES; ++i) sums[i][c] = multiply_add(values[i], weights, sums[i][c]);
    }
  }
  for (int i = 0; i < IMAGES; ++i) {
    for (int c = 0; c < CLASSES; ++c) {
      float logit = sum(sums[i][c]);
      for (int channel = whole; channel < channels; ++channel)
        logit +=
            features[static_cast<size_t>(i) * channels + channel] * weight[static_cast<size_t>(c) * channels + channel];
      logits[static_cast<size_t>(i) * classes + c] = logit + bias[c];
    }
  }
}

}  // namespace

void classify(const float *features, int images, int channels, const float *weight, const float *bias, int classes,
              float *logits) {
  const auto tile = [&](auto tile_images, auto tile_classes, int image, int first) {
    classify_tile<decltype(tile_images)::value, decltype(tile_classes)::value>(
        features + static_cast<size_t>(image) * channels, channels, weight + static_cast<size_t>(first) * channels,
        bias + first, classes, logits + static_cast<size_t>(image) * classes + first);
  };
  const std::integral_constant<int, 1> one;
  const std::integral_constant<int, TILE_IMAGES> some_images;
  const std::integral_constant<int, TILE_CLASSES> some_classes;
  parallel(divide_up(classes, TASK_CLASSES), [&](int task) {
    const int last = std::min(classes, (task + 1) * TASK_CLASSES);
    int first = task * TASK_CLASSES;
    const auto all_images = [&](auto tile_classes) {
      int image = 0;
      for (; image + TILE_IMAGES <= images; image += TILE_IMAGES) tile(some_images, tile_classes, image, first);
      for (; image < images; ++image) tile(one, tile_classes, image, first);
    };
    for (; first + TILE_CLASSES <= last; first += TILE_CLASSES) all_images(some_classes);
    for (; first < last; ++first) all_images(one);
  });
}
