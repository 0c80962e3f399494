#include "batch_norm.h"

#include <algorithm>
#include <cmath>

#include "tasks.h"
#include "thread_pool.h"

namespace {

// f(channel) for all channels including the padding of the last block.
template <class F> void for_channels(const Layer &l, F &&f) {
  parallel(l.out_blocks(), [&](int block) {
    for (int c = block * LANES; c < (block + 1) * LANES; ++c) f(c);
  });
}

void set_norm(const Layer &l, const Norm &norm, int c, double mean, double variance) {
  const double inverse = 1.0 / std::sqrt(variance + l.epsilon);
  norm.mean[c] = static_cast<float>(mean);
  norm.inverse_deviation[c] = static_cast<float>(inverse);
  norm.scale[c] = static_cast<float>(l.gamma[c] * inverse);
  norm.shift[c] = static_cast<float>(l.beta[c] - mean * l.gamma[c] * inverse);
}

void clear_norm(const Norm &norm, int c) {
  norm.mean[c] = norm.inverse_deviation[c] = norm.scale[c] = norm.shift[c] = 0.0f;
}

}  // namespace

// The parts' means and squared deviations combined in double precision (Chan, Golub, LeVeque).
void use_batch_statistics(const Layer &l, const PartialSums &moments, const Norm &norm) {
  const auto pixels = static_cast<double>(l.out_pixels());
  const size_t parts = moments.pixels.size();
  for_channels(l, [&](int c) {
    if (c >= l.out_channels) return clear_norm(norm, c);
    const auto moment = [&](size_t part, int which) -> double { return moments.at(part, l.out_blocks(), c, which); };
    double total = 0.0, squares = 0.0;
    for (size_t i = 0; i < parts; ++i) total += moment(i, 0) * moments.pixels[i] + moment(i, 1);
    const double mean = total / pixels;
    for (size_t i = 0; i < parts; ++i) {
      const double n = moments.pixels[i], sum = moment(i, 1), offset = moment(i, 0) + sum / n - mean;
      squares += moment(i, 2) - sum * sum / n + n * offset * offset;
    }
    squares = squares < 0.0 ? 0.0 : squares;  // a NaN stays one
    set_norm(l, norm, c, mean, squares / pixels);
    // The framework keeps the unbiased variance; of a single pixel it is not a number there either. A sum of two
    // products, because a difference of two infinities would be no number.
    const auto move = [&](float &moving, double value) {
      moving = (1.0f - l.momentum) * moving + l.momentum * static_cast<float>(value);
    };
    move(l.moving_mean[c], mean);
    move(l.moving_variance[c], squares / (pixels - 1.0));
  });
}

void use_moving_statistics(const Layer &l, const Norm &norm) {
  for_channels(l, [&](int c) {
    if (c >= l.out_channels) return clear_norm(norm, c);
    set_norm(l, norm, c, l.moving_mean[c], l.moving_variance[c]);
  });
}

void start_backward(const Layer &l, const Activations &y, BlockedTensor gradient, PartialSums &sums) {
  const int blocks = l.out_blocks();
  const PixelParts split(l.out_pixels(), MIN_TASKS);
  sums.prepare(split.parts, blocks);
  parallel(split.parts * blocks, [&](int task) {
    const int part = task / blocks, block = task % blocks;
    const BackwardEpilogue<Vec> epilogue(y, block);
    GradientSums<Vec> total;
    for (size_t p = split.first_pixel(part); p < split.first_pixel(part + 1); ++p) {
      float *g = gradient.at(block, p);
      store(g, epilogue(load(g), p, total));
    }
    total.write(sums.at(part, blocks, block));
  });
}

void batch_norm_backward(const Layer &l, const PartialSums &sums, const ConstNorm &norm, bool batch_statistics,
                         float *gamma, float *beta, float *a, float *b, float *c) {
  const auto pixels = static_cast<double>(l.out_pixels());
  for_channels(l, [&](int channel) {
    double sum = 0.0, products = 0.0;
    for (size_t i = 0; i < sums.pixels.size(); ++i) {
      sum += sums.at(i, l.out_blocks(), channel, 0);
      products += sums.at(i, l.out_blocks(), channel, 1);
    }
    const double inverse = norm.inverse_deviation[channel], scale = norm.scale[channel];
    if (channel < l.out_channels) {
      gamma[channel] = static_cast<float>(products * inverse);
      beta[channel] = static_cast<float>(sum);
    }
    a[channel] = norm.scale[channel];
    const double slope = batch_statistics ? -scale * inverse * inverse * products / pixels : 0.0;
    b[channel] = static_cast<float>(slope);
    c[channel] = batch_statistics ? static_cast<float>(-scale * sum / pixels - slope * norm.mean[channel]) : 0.0f;
  });
}
