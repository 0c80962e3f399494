// The three convolutions, forward and backward, against plain loops in double precision, over odd shapes; and the same
// bits with any number of threads.
#include "conv.h"

#include <cmath>
#include <vector>

#include "batch_norm.h"
#include "checks.h"
#include "layout.h"
#include "random_floats.h"
#include "same_bits.h"
#include "tasks.h"

namespace {

bool close(float found, double expected, double terms) {
  return std::fabs(found - expected) <= 2e-6 * std::sqrt(terms) * (std::fabs(expected) + std::sqrt(terms));
}

struct Case {
  Kind kind;
  int stride, in_channels, out_channels, images, height, width;
};

// Everything that a layer reads and writes. Channel c of the normalisation in front has the scale 1 + c / 8 and so on,
// so that values are what the kernels compute while loading.
struct Run {
  Layer l = {};
  std::vector<float> weight, input, output_gradient, raw, statistics, coefficients, shortcut;
  std::vector<float> y, weight_gradient, input_gradient, image_gradient;
  PartialSums moments, sums;
  Norm norm = {};

  explicit Run(const Case &c) {
    l.kind = c.kind;
    l.stride = c.stride;
    l.in_channels = c.in_channels;
    l.out_channels = c.out_channels;
    l.images = c.images;
    l.height = c.height;
    l.width = c.width;
    l.out_height = (c.height - 1) / c.stride + 1;
    l.out_width = (c.width - 1) / c.stride + 1;
    weight = random_floats(static_cast<size_t>(l.taps()) * l.out_channels);
    l.weight = weight.data();
    input = random_floats(c.kind == Kind::dense ? l.in_channels * l.in_pixels() : l.in_floats());
    output_gradient = random_floats(l.out_floats());
    raw = random_floats(l.out_floats());
    shortcut = random_floats(l.in_floats());
    const size_t channels = static_cast<size_t>(l.in_blocks()) * LANES;
    statistics = random_floats(3 * channels);
    norm = {statistics.data(), statistics.data() + channels, statistics.data() + 2 * channels, nullptr};
    coefficients = random_floats(3 * static_cast<size_t>(l.out_blocks()) * LANES);
  }

  Activations value() const {
    if (l.kind == Kind::dense) return {};
    return {{input.data(), l.in_pixels()}, norm, true};
  }
  RawGradient gradient() const {
    const float *a = coefficients.data(), *b = a + l.out_blocks() * LANES, *c = b + l.out_blocks() * LANES;
    return {{output_gradient.data(), l.out_pixels()}, {raw.data(), l.out_pixels()}, a, b, c};
  }

  void compute() {
    y.assign(l.out_floats(), NAN);
    weight_gradient.assign(weight.size(), NAN);
    input_gradient.assign(l.in_floats(), NAN);
    const BlockedTensor out = {y.data(), l.out_pixels()}, in_gradient = {input_gradient.data(), l.in_pixels()};
    const ConstBlockedTensor added = {shortcut.data(), l.in_pixels()};
    if (l.kind == Kind::depthwise) {
      depthwise_forward(l, value(), out, moments);
      depthwise_backward(l, value(), gradient(), value(), added, weight_gradient.data(), in_gradient, sums);
    } else if (l.kind == Kind::pointwise) {
      gemm_forward(l, value(), nullptr, out, moments);
      gemm_backward(l, value(), nullptr, gradient(), value(), added, weight_gradient.data(), in_gradient, sums);
    } else {
      gemm_forward(l, {}, input.data(), out, moments);
      gemm_backward(l, {}, input.data(), gradient(), {}, {}, weight_gradient.data(), {}, sums);
      image_gradient.assign(input.size(), NAN);
      ::image_gradient(l, gradient(), image_gradient.data());
    }
  }

  // Plain loops ---------------------------------------------------------------------------------------------------

  size_t in_place(int channel, int image, int row, int column) const {
    if (l.kind == Kind::dense)
      return ((static_cast<size_t>(image) * l.in_channels + channel) * l.height + row) * l.width + column;
    const size_t pixel = (static_cast<size_t>(image) * l.height + row) * l.width + column;
    return (channel / LANES * l.in_pixels() + pixel) * LANES + channel % LANES;
  }
  size_t out_place(int channel, int image, int row, int column) const {
    const size_t pixel = (static_cast<size_t>(image) * l.out_height + row) * l.out_width + column;
    return (channel / LANES * l.out_pixels() + pixel) * LANES + channel % LANES;
  }
  double before_activation(int channel, size_t place) const {
    return static_cast<double>(norm.scale[channel]) * input[place] + norm.shift[channel];
  }
  double in(int channel, int image, int row, int column) const {
    if (row < 0 || row >= l.height || column < 0 || column >= l.width) return 0.0;
    const size_t place = in_place(channel, image, row, column);
    if (l.kind == Kind::dense) return input[place];
    return std::fmin(std::fmax(before_activation(channel, place), 0.0), 6.0);
  }
  double out_gradient(int channel, size_t place) const {
    const RawGradient g = gradient();
    return static_cast<double>(g.a[channel]) * g.gradient.data[place] +
           static_cast<double>(g.b[channel]) * g.raw.data[place] + g.c[channel];
  }

  // f(output channel, input channel, index of the weight, image, output row and column, input row and column)
  template <class F> void for_products(F &&f) const {
    const int side = l.kind == Kind::pointwise ? 1 : 3, border = side / 2;
    for (int o = 0; o < l.out_channels; ++o) {
      for (int i = 0; i < (l.kind == Kind::depthwise ? 1 : l.in_channels); ++i) {
        for (int t = 0; t < side * side; ++t) {
          const size_t w = static_cast<size_t>(o) * l.taps() + i * side * side + t;
          for (int n = 0; n < l.images; ++n)
            for (int row = 0; row < l.out_height; ++row)
              for (int column = 0; column < l.out_width; ++column)
                f(o, l.kind == Kind::depthwise ? o : i, w, n, row, column, row * l.stride - border + t / side,
                  column * l.stride - border + t % side);
        }
      }
    }
  }

  void check() const {
    std::vector<double> expected_y(y.size()), of_weights(weight.size()), of_input(l.in_floats() + input.size());
    for_products([&](int o, int i, size_t w, int n, int row, int column, int in_row, int in_column) {
      const double x = in(i, n, in_row, in_column);
      const size_t out = out_place(o, n, row, column);
      expected_y[out] += weight[w] * x;
      of_weights[w] += out_gradient(o, out) * x;
      if (in_row >= 0 && in_row < l.height && in_column >= 0 && in_column < l.width)
        of_input[in_place(i, n, in_row, in_column)] += out_gradient(o, out) * weight[w];
    });
    for (int o = 0; o < l.out_channels; ++o) check_outputs(o, expected_y);
    for (size_t w = 0; w < weight.size(); ++w)
      CHECK(close(weight_gradient[w], of_weights[w], 36.0 * static_cast<double>(l.out_pixels())));
    for (int i = 0; i < l.in_channels; ++i) check_inputs(i, of_input);
  }

  // The outputs of a channel, and what the moments say of them.
  void check_outputs(int channel, const std::vector<double> &expected) const {
    double mean = 0.0, squares = 0.0, pixels = 0.0;
    for (int n = 0; n < l.images; ++n) {
      for (int row = 0; row < l.out_height; ++row) {
        for (int column = 0; column < l.out_width; ++column) {
          const size_t place = out_place(channel, n, row, column);
          CHECK(close(y[place], expected[place], 36.0 * l.taps()));
          mean += y[place];
          squares += static_cast<double>(y[place]) * y[place];
        }
      }
    }
    double total = 0.0, total_squares = 0.0;
    for (size_t part = 0; part < moments.pixels.size(); ++part) {
      const double n = moments.pixels[part], pivot = moments.at(part, l.out_blocks(), channel, 0);
      const double sum = moments.at(part, l.out_blocks(), channel, 1);
      pixels += n;
      total += pivot * n + sum;
      total_squares += moments.at(part, l.out_blocks(), channel, 2) + 2 * pivot * sum + n * pivot * pivot;
    }
    CHECK(pixels == static_cast<double>(l.out_pixels()));
    CHECK(close(static_cast<float>(total), mean, squares + 1));
    CHECK(std::fabs(total_squares - squares) <= 1e-5 * (squares + 1));
  }

  // The input gradients of a channel behind the shortcut and the activation in front, and their sums.
  void check_inputs(int channel, const std::vector<double> &of_input) const {
    double sum = 0.0, products = 0.0, size = 0.0;
    for (int n = 0; n < l.images; ++n) {
      for (int row = 0; row < l.height; ++row) {
        for (int column = 0; column < l.width; ++column) {
          const size_t place = in_place(channel, n, row, column);
          if (l.kind == Kind::dense) {
            CHECK(close(image_gradient[place], of_input[place], 36.0 * 9 * l.out_channels));
            continue;
          }
          const double before = before_activation(channel, place);
          if (std::fabs(before) < 1e-5 || std::fabs(before - 6.0) < 1e-5) continue;  // open or not by one rounding
          const double expected = before > 0.0 && before < 6.0 ? of_input[place] + shortcut[place] : 0.0;
          CHECK(close(input_gradient[place], expected, 36.0 * 9 * l.out_channels));
          sum += input_gradient[place];
          products += static_cast<double>(input_gradient[place]) * (input[place] - norm.mean[channel]);
          size += std::fabs(input_gradient[place]) * (1 + std::fabs(input[place] - norm.mean[channel]));
        }
      }
    }
    if (l.kind == Kind::dense) return;
    double found_sum = 0.0, found_products = 0.0;
    for (size_t part = 0; part < sums.pixels.size(); ++part) {
      found_sum += sums.at(part, l.in_blocks(), channel, 0);
      found_products += sums.at(part, l.in_blocks(), channel, 1);
    }
    CHECK(std::fabs(found_sum - sum) <= 1e-5 * (size + 1));
    CHECK(std::fabs(found_products - products) <= 1e-5 * (size + 1));
  }
};

}  // namespace

int main() {
  limit_time();
  const std::vector<Case> cases = {
      {Kind::pointwise, 1, 1, 1, 1, 1, 1},     {Kind::pointwise, 1, 17, 33, 2, 3, 7},
      {Kind::pointwise, 1, 40, 24, 1, 19, 31}, {Kind::pointwise, 1, 70, 19, 3, 8, 9},
      {Kind::pointwise, 1, 24, 150, 1, 7, 7},  {Kind::dense, 1, 3, 24, 1, 5, 8},
      {Kind::dense, 2, 3, 8, 2, 9, 6},         {Kind::dense, 2, 1, 17, 2, 1, 1},
      {Kind::depthwise, 1, 1, 1, 1, 1, 1},     {Kind::depthwise, 1, 17, 17, 2, 5, 4},
      {Kind::depthwise, 1, 48, 48, 1, 19, 9},  {Kind::depthwise, 2, 33, 33, 2, 9, 5},
      {Kind::depthwise, 2, 16, 16, 1, 34, 6},  {Kind::depthwise, 2, 20, 20, 3, 1, 2},
      {Kind::depthwise, 2, 8, 8, 1, 2, 1},
  };
  for (const Case &c : cases) {
    Run first(c);
    check_on_threads(first, [&](const Run &again) {
      CHECK(same_bits(again.y, first.y) && same_bits(again.weight_gradient, first.weight_gradient));
      CHECK(same_bits(again.moments.data, first.moments.data) && same_bits(again.image_gradient, first.image_gradient));
      if (c.kind != Kind::dense) CHECK(same_bits(again.input_gradient, first.input_gradient));
    });
  }
}
