#include "resize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>

namespace {
constexpr int CHANNELS = 3;
constexpr size_t CUBIC_TAPS = 4;
constexpr int BITS = 11;
constexpr int ONE = 1 << BITS;  // the weight 1 in OpenCV's fixed-point numbers

// Which two pixels a target pixel lies between, and their weights.
struct Tap {
  int first, second;
  int first_weight, second_weight;
};

// Pixel centres lie at half numbers. Beyond the first and the last centre the border's pixel is repeated: along a row
// with the weight 1 (`pin`), down a column with the weights that it would have had, which rounds otherwise.
std::vector<Tap> taps_of(int source, int target, bool pin) {
  std::vector<Tap> taps(static_cast<size_t>(target));
  const double scale = 1.0 / (static_cast<double>(target) / source);
  for (int i = 0; i < target; ++i) {
    auto position = static_cast<float>((i + 0.5) * scale - 0.5);
    const int first = static_cast<int>(std::floor(position));
    position -= static_cast<float>(first);
    if (pin && (first < 0 || first >= source - 1)) position = 0;
    taps[static_cast<size_t>(i)] = {std::clamp(first, 0, source - 1), std::clamp(first + 1, 0, source - 1),
                                    static_cast<int>(std::lrint((1.F - position) * ONE)),
                                    static_cast<int>(std::lrint(position * ONE))};
  }
  return taps;
}

std::vector<int> resize_row(const unsigned char *row, const std::vector<Tap> &taps) {
  std::vector<int> out(taps.size() * CHANNELS);
  for (size_t x = 0; x < taps.size(); ++x) {
    const Tap &tap = taps[x];
    for (int c = 0; c < CHANNELS; ++c) {
      out[x * CHANNELS + static_cast<size_t>(c)] =
          row[tap.first * CHANNELS + c] * tap.first_weight + row[tap.second * CHANNELS + c] * tap.second_weight;
    }
  }
  return out;
}

Image resize_bilinear(const Image &image, int width, int height) {
  Image out{width, height, std::vector<unsigned char>(static_cast<size_t>(width) * height * CHANNELS)};
  const auto columns = taps_of(image.width, width, true);
  const auto rows = taps_of(image.height, height, false);
  const size_t stride = static_cast<size_t>(image.width) * CHANNELS;
  std::vector<int> upper, lower;
  int upper_row = -1, lower_row = -1;
  unsigned char *pixel = out.rgb.data();
  for (const Tap &tap : rows) {
    if (tap.first == lower_row) {
      upper.swap(lower), std::swap(upper_row, lower_row);
    }
    if (tap.first != upper_row) {
      upper = resize_row(image.rgb.data() + static_cast<size_t>(tap.first) * stride, columns), upper_row = tap.first;
    }
    if (tap.second != lower_row) {
      lower = resize_row(image.rgb.data() + static_cast<size_t>(tap.second) * stride, columns), lower_row = tap.second;
    }
    for (size_t i = 0; i < upper.size(); ++i) {
      const int sum = ((tap.first_weight * (upper[i] >> 4)) >> 16) + ((tap.second_weight * (lower[i] >> 4)) >> 16);
      *pixel++ = static_cast<unsigned char>(std::clamp((sum + 2) >> 2, 0, 255));
    }
  }
  return out;
}

// The four pixels around a target pixel, and their weights: OpenCV's cubic, with a slope of -.75.
struct CubicTap {
  std::array<int, CUBIC_TAPS> places, weights;
};

std::vector<CubicTap> cubic_taps_of(int source, int target) {
  std::vector<CubicTap> taps(static_cast<size_t>(target));
  const double scale = 1.0 / (static_cast<double>(target) / source);
  constexpr float A = -0.75F;
  for (int i = 0; i < target; ++i) {
    const auto position = static_cast<float>((i + 0.5) * scale - 0.5);
    const int first = static_cast<int>(std::floor(position));
    const float x = position - static_cast<float>(first), y = 1.F - x;
    std::array<float, CUBIC_TAPS> weights{};
    weights[0] = ((A * (x + 1) - 5 * A) * (x + 1) + 8 * A) * (x + 1) - 4 * A;
    weights[1] = ((A + 2) * x - (A + 3)) * x * x + 1;
    weights[2] = ((A + 2) * y - (A + 3)) * y * y + 1;
    weights[3] = 1.F - weights[0] - weights[1] - weights[2];
    CubicTap &tap = taps[static_cast<size_t>(i)];
    for (size_t k = 0; k < CUBIC_TAPS; ++k) {
      tap.places[k] = std::clamp(first - 1 + static_cast<int>(k), 0, source - 1);
      tap.weights[k] = static_cast<int>(std::lrint(weights[k] * ONE));
    }
  }
  return taps;
}

std::vector<int> resize_row_bicubic(const unsigned char *row, const std::vector<CubicTap> &taps) {
  std::vector<int> out;
  out.reserve(taps.size() * CHANNELS);
  for (const CubicTap &tap : taps) {
    for (int c = 0; c < CHANNELS; ++c) {
      int sum = 0;
      for (size_t k = 0; k < CUBIC_TAPS; ++k) sum += row[tap.places[k] * CHANNELS + c] * tap.weights[k];
      out.push_back(sum);
    }
  }
  return out;
}

Image resize_bicubic(const Image &image, int width, int height) {
  Image out{width, height, {}};
  out.rgb.reserve(static_cast<size_t>(width) * height * CHANNELS);
  const auto columns = cubic_taps_of(image.width, width);
  const size_t stride = static_cast<size_t>(image.width) * CHANNELS;
  std::map<int, std::vector<int>> rows;  // by their place in the image, those that are still needed
  for (const CubicTap &tap : cubic_taps_of(image.height, height)) {
    rows.erase(rows.begin(), rows.lower_bound(tap.places.front()));
    std::array<const int *, CUBIC_TAPS> sources{};
    for (size_t k = 0; k < CUBIC_TAPS; ++k) {
      std::vector<int> &row = rows[tap.places[k]];
      if (row.empty())
        row = resize_row_bicubic(image.rgb.data() + static_cast<size_t>(tap.places[k]) * stride, columns);
      sources[k] = row.data();
    }
    for (size_t i = 0; i < static_cast<size_t>(width) * CHANNELS; ++i) {
      int sum = 0;
      for (size_t k = 0; k < CUBIC_TAPS; ++k) sum += sources[k][i] * tap.weights[k];
      out.rgb.push_back(static_cast<unsigned char>(std::clamp((sum + ONE * ONE / 2) >> (2 * BITS), 0, 255)));
    }
  }
  return out;
}
}  // namespace

Image upright(const Image &image, int orientation) {
  if (orientation == 1) return image;
  const bool is_transposed = orientation >= 5;
  const bool flips_columns = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flips_rows = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image out{is_transposed ? image.height : image.width, is_transposed ? image.width : image.height, {}};
  out.rgb.reserve(image.rgb.size());
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x) {
      const int column = is_transposed ? y : x, row = is_transposed ? x : y;
      const int from_x = flips_columns ? image.width - 1 - column : column;
      const int from_y = flips_rows ? image.height - 1 - row : row;
      const auto *pixel = image.rgb.data() + (static_cast<size_t>(from_y) * image.width + from_x) * CHANNELS;
      out.rgb.insert(out.rgb.end(), pixel, pixel + CHANNELS);
    }
  }
  return out;
}

Image resize(const Image &image, int width, int height, Interpolation interpolation) {
  if (width == image.width && height == image.height) return image;
  return interpolation == Interpolation::bicubic ? resize_bicubic(image, width, height)
                                                 : resize_bilinear(image, width, height);
}
