#include "layout.h"

#include <algorithm>

#include "batch_norm.h"
#include "thread_pool.h"
#include "workspace.h"

void to_blocks(const float *plain, int images, int channels, size_t plane, BlockedTensor blocked) {
  parallel(images * blocks_of(channels), [&](int task) {
    const int block = task / images, image = task % images, lanes = std::min(LANES, channels - block * LANES);
    const float *in = plain + (static_cast<size_t>(image) * channels + block * LANES) * plane;
    float *out = blocked.at(block, image * plane);
    for (size_t p = 0; p < plane; ++p)
      for (int j = 0; j < LANES; ++j) out[p * LANES + j] = j < lanes ? in[j * plane + p] : 0.0f;
  });
}

void from_blocks(const Activations &value, int images, int channels, size_t plane, float *plain) {
  parallel(images * blocks_of(channels), [&](int task) {
    const int block = task / images, image = task % images, lanes = std::min(LANES, channels - block * LANES);
    float *in = thread_scratch(plane * LANES);
    load_value(value, block, image * plane, plane, in);
    float *out = plain + (static_cast<size_t>(image) * channels + block * LANES) * plane;
    for (int j = 0; j < lanes; ++j)
      for (size_t p = 0; p < plane; ++p) out[j * plane + p] = in[p * LANES + j];
  });
}

void mean_from_blocks(const Activations &value, int images, int channels, size_t plane, float *means) {
  parallel(images * blocks_of(channels), [&](int task) {
    const int block = task / images, image = task % images, lanes = std::min(LANES, channels - block * LANES);
    float *in = thread_scratch(plane * LANES);
    load_value(value, block, image * plane, plane, in);
    Vec sum = {};
    for (size_t p = 0; p < plane; ++p) sum += load(in + p * LANES);
    float sums[LANES];
    store(sums, sum);
    for (int j = 0; j < lanes; ++j)
      means[static_cast<size_t>(image) * channels + block * LANES + j] = sums[j] / static_cast<float>(plane);
  });
}

void mean_gradient_to_blocks(const float *gradient, int images, int channels, size_t plane, BlockedTensor blocked) {
  parallel(images * blocks_of(channels), [&](int task) {
    const int block = task / images, image = task % images, lanes = std::min(LANES, channels - block * LANES);
    const float *in = gradient + static_cast<size_t>(image) * channels + block * LANES;
    float *out = blocked.at(block, image * plane);
    float each[LANES] = {};
    for (int j = 0; j < lanes; ++j) each[j] = in[j] / static_cast<float>(plane);
    for (size_t p = 0; p < plane; ++p) std::copy_n(each, LANES, out + p * LANES);
  });
}

void add(const Activations &value, const Activations &shortcut, int blocks, size_t pixels, BlockedTensor out) {
  constexpr size_t SPAN = 2048;  // pixels of a task
  const int spans = static_cast<int>((pixels + SPAN - 1) / SPAN);
  parallel(blocks * spans, [&](int task) {
    const int block = task / spans;
    const size_t first = task % spans * SPAN, count = std::min(SPAN, pixels - first);
    float *sum = out.at(block, first), *other = thread_scratch(count * LANES);
    load_value(value, block, first, count, sum);
    load_value(shortcut, block, first, count, other);
    for (size_t i = 0; i < count * LANES; i += LANES) store(sum + i, load(sum + i) + load(other + i));
  });
}
