// Training through an expanding and a depthwise convolution without the tensor between them: forward, the bits of the
// two layers one after the other; backward, plain loops in double precision. Also inputs far from zero, and the same
// bits with any number of threads.
#include "fused_training.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "batch_norm.h"
#include "checks.h"
#include "conv.h"
#include "random_floats.h"
#include "same_bits.h"

namespace {

struct Case {
  int in_channels, channels, stride, images, height, width;
  bool batch_statistics;
  float offset;  // of the input's mean from zero
};

using Doubles = std::vector<double>;

// Within a part of the largest value: rounding, not a fault.
void check_close(const std::vector<float> &found, const Doubles &expected) {
  double largest = 0.0;
  for (const double value : expected) largest = std::fmax(largest, std::fabs(value));
  for (size_t i = 0; i < expected.size(); ++i) CHECK(std::fabs(found[i] - expected[i]) <= 3e-5 * (largest + 1e-2));
}

struct Run {
  bool batch_statistics;
  Layer expand = {}, depthwise = {};
  std::vector<float> weight, taps, gamma, beta, moving_mean, moving_variance, input, output_gradient, shortcut;
  std::vector<float> coefficients, input_statistics, statistics;
  std::vector<float> expanded, y, expected_y;
  std::vector<float> of_weight, of_gamma, of_beta, of_taps, of_input;
  PartialSums moments, sums;
  Norm input_norm = {}, norm = {};

  explicit Run(const Case &c) : batch_statistics(c.batch_statistics) {
    expand.kind = Kind::pointwise;
    expand.stride = 1;
    expand.activation = true;
    expand.shortcut = -1;
    expand.in_channels = c.in_channels;
    expand.out_channels = c.channels;
    expand.images = c.images;
    expand.height = expand.out_height = c.height;
    expand.width = expand.out_width = c.width;
    expand.epsilon = 1e-5f;
    expand.momentum = 0.1f;
    depthwise = expand;
    depthwise.kind = Kind::depthwise;
    depthwise.stride = c.stride;
    depthwise.in_channels = c.channels;
    depthwise.out_height = (c.height - 1) / c.stride + 1;
    depthwise.out_width = (c.width - 1) / c.stride + 1;
    weight = random_floats(static_cast<size_t>(c.in_channels) * c.channels);
    taps = random_floats(static_cast<size_t>(9) * c.channels);
    gamma = random_floats(c.channels);
    beta = random_floats(c.channels);
    moving_mean = random_floats(c.channels);
    moving_variance.assign(c.channels, 2.0f);
    input = random_floats(expand.in_floats());
    for (float &x : input) x += c.offset;
    output_gradient = random_floats(depthwise.out_floats());
    shortcut = random_floats(expand.in_floats());
    const size_t channels = static_cast<size_t>(expand.out_blocks()) * LANES;
    const size_t in_channels = static_cast<size_t>(expand.in_blocks()) * LANES;
    coefficients = random_floats(3 * channels);
    input_statistics = random_floats(3 * in_channels);
    input_norm = {input_statistics.data(), input_statistics.data() + in_channels,
                  input_statistics.data() + 2 * in_channels, nullptr};
    statistics.resize(4 * channels);
    norm = {statistics.data(), statistics.data() + channels, statistics.data() + 2 * channels,
            statistics.data() + 3 * channels};
    expand.weight = weight.data();
    expand.gamma = gamma.data();
    expand.beta = beta.data();
    expand.moving_mean = moving_mean.data();
    expand.moving_variance = moving_variance.data();
    depthwise.weight = taps.data();
  }

  Activations value() const { return {{input.data(), expand.in_pixels()}, input_norm, false}; }
  RawGradient gradient() const {
    const float *a = coefficients.data(), *b = a + expand.out_blocks() * LANES, *c = b + expand.out_blocks() * LANES;
    return {{output_gradient.data(), depthwise.out_pixels()}, {y.data(), depthwise.out_pixels()}, a, b, c};
  }

  void compute() {
    expanded.assign(expand.out_floats(), NAN);
    y.assign(depthwise.out_floats(), NAN);
    expected_y = y;
    of_weight.assign(weight.size(), NAN);
    of_gamma.assign(gamma.size(), NAN);
    of_beta = of_gamma;
    of_taps.assign(taps.size(), NAN);
    of_input.assign(expand.in_floats(), NAN);
    PartialSums stored, recomputed, separate;
    gemm_forward(expand, value(), nullptr, {expanded.data(), expand.out_pixels()}, stored);
    gemm_forward(expand, value(), nullptr, {}, recomputed);
    CHECK(same_bits(stored.data, recomputed.data));
    if (batch_statistics) {
      use_batch_statistics(expand, recomputed, norm);
    } else {
      use_moving_statistics(expand, norm);
    }
    const Activations between = {{expanded.data(), expand.out_pixels()}, norm, true};
    depthwise_forward(depthwise, between, {expected_y.data(), depthwise.out_pixels()}, separate);
    const ExpandDepthwise layers = {expand, depthwise, value(), norm};
    expand_depthwise_forward(layers, {y.data(), depthwise.out_pixels()}, moments);
    CHECK(same_bits(y, expected_y));
    expand_depthwise_backward(layers, gradient(), batch_statistics, value(), {shortcut.data(), expand.in_pixels()},
                              {of_weight.data(), of_gamma.data(), of_beta.data(), of_taps.data()},
                              {of_input.data(), expand.in_pixels()}, sums);
  }

  // Plain loops ---------------------------------------------------------------------------------------------------

  static size_t place(int channel, size_t pixel, size_t pixels) {
    return (channel / LANES * pixels + pixel) * LANES + channel % LANES;
  }
  double x(int channel, size_t pixel) const {
    const size_t at = place(channel, pixel, expand.in_pixels());
    return static_cast<double>(input_norm.scale[channel]) * input[at] + input_norm.shift[channel];
  }

  // The gradient of a channel of the expanded tensor's raw output; adds up those of its parameters.
  Doubles expanded_gradient(int channel, Doubles &taps_gradient, Doubles &gamma_gradient,
                            Doubles &beta_gradient) const {
    const size_t pixels = expand.in_pixels();
    const RawGradient out = gradient();
    Doubles raw(pixels), g(pixels);
    for (size_t p = 0; p < pixels; ++p) raw[p] = expanded[place(channel, p, pixels)];
    for (size_t q = 0; q < depthwise.out_pixels(); ++q) {
      const size_t at = place(channel, q, depthwise.out_pixels()), in_image = q % depthwise.out_plane();
      const double d = static_cast<double>(out.a[channel]) * output_gradient[at] +
                       static_cast<double>(out.b[channel]) * y[at] + out.c[channel];
      for (int t = 0; t < 9; ++t) {
        const int row = static_cast<int>(in_image) / depthwise.out_width * depthwise.stride - 1 + t / 3;
        const int column = static_cast<int>(in_image) % depthwise.out_width * depthwise.stride - 1 + t % 3;
        if (row < 0 || row >= expand.height || column < 0 || column >= expand.width) continue;
        const size_t p = (q / depthwise.out_plane() * expand.height + row) * expand.width + column;
        const double z = norm.scale[channel] * raw[p] + norm.shift[channel];
        taps_gradient[channel * 9 + t] += d * std::fmin(std::fmax(z, 0.0), 6.0);
        if (z > 0.0 && z <= 6.0) g[p] += d * taps[channel * 9 + t];
      }
    }
    // The mean as a float would leave a sum of d that an input far from zero makes large.
    const double mean = batch_statistics ? std::accumulate(raw.begin(), raw.end(), 0.0) / static_cast<double>(pixels)
                                         : norm.mean[channel];
    const double inverse = norm.inverse_deviation[channel], scale = norm.scale[channel];
    for (size_t p = 0; p < pixels; ++p) {
      beta_gradient[channel] += g[p];
      gamma_gradient[channel] += g[p] * (raw[p] - mean) * inverse;
    }
    for (size_t p = 0; p < pixels; ++p) {
      g[p] *= scale;
      if (batch_statistics)
        g[p] -= scale / static_cast<double>(pixels) *
                (beta_gradient[channel] + (raw[p] - mean) * inverse * gamma_gradient[channel]);
    }
    return g;
  }

  void check() const {
    const size_t pixels = expand.in_pixels();
    Doubles weights(weight.size()), gammas(gamma.size()), betas(beta.size()), taps_gradient(taps.size());
    Doubles inputs(static_cast<size_t>(expand.in_channels) * pixels), totals(expand.in_channels);
    Doubles products(expand.in_channels);
    for (int o = 0; o < expand.out_channels; ++o) {
      const Doubles d = expanded_gradient(o, taps_gradient, gammas, betas);
      for (int i = 0; i < expand.in_channels; ++i) {
        for (size_t p = 0; p < pixels; ++p) {
          weights[o * expand.in_channels + i] += d[p] * x(i, p);
          inputs[i * pixels + p] += d[p] * weight[o * expand.in_channels + i];
        }
      }
    }
    check_close(of_weight, weights);
    check_close(of_gamma, gammas);
    check_close(of_beta, betas);
    check_close(of_taps, taps_gradient);
    std::vector<float> found(inputs.size()), found_totals(totals.size()), found_products(totals.size());
    for (int i = 0; i < expand.in_channels; ++i) {
      for (size_t p = 0; p < pixels; ++p) {
        const size_t at = place(i, p, pixels);
        inputs[i * pixels + p] += shortcut[at];
        found[i * pixels + p] = of_input[at];
        totals[i] += of_input[at];
        products[i] += static_cast<double>(of_input[at]) * (input[at] - input_norm.mean[i]);
      }
      for (size_t part = 0; part < sums.pixels.size(); ++part) {
        found_totals[i] += sums.at(part, expand.in_blocks(), i, 0);
        found_products[i] += sums.at(part, expand.in_blocks(), i, 1);
      }
    }
    check_close(found, inputs);
    check_close(found_totals, totals);
    check_close(found_products, products);
  }
};

}  // namespace

int main() {
  limit_time();
  const std::vector<Case> cases = {
      {1, 4, 1, 1, 1, 2, false, 0},    {3, 17, 1, 2, 5, 7, true, 0},    {8, 48, 1, 3, 12, 9, true, 0},
      {8, 48, 1, 3, 12, 9, true, 30},  {16, 96, 2, 2, 17, 34, true, 0}, {16, 64, 2, 1, 8, 130, true, 0},
      {16, 64, 2, 1, 9, 11, false, 0}, {20, 80, 1, 1, 40, 6, true, 0},
  };
  for (const Case &c : cases) {
    Run first(c);
    check_on_threads(first, [&](const Run &again) {
      CHECK(same_bits(again.moments.data, first.moments.data) && same_bits(again.sums.data, first.sums.data));
      CHECK(same_bits(again.of_weight, first.of_weight) && same_bits(again.of_gamma, first.of_gamma));
      CHECK(same_bits(again.of_taps, first.of_taps) && same_bits(again.of_input, first.of_input));
    });
  }
}
