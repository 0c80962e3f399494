// The matrix products against plain loops, over all remainders of rows, channels and panels.
#include "gemm.h"

#include <cmath>
#include <vector>

#include "checks.h"
#include "random_floats.h"

namespace {

// A sum of `terms` products of normal numbers: some roundings of its size each.
bool close(float found, double expected, int terms) {
  return std::fabs(found - expected) <= 1e-6 * std::sqrt(terms) * (std::fabs(expected) + std::sqrt(terms));
}

size_t place(int channel, int pixel) {
  return (static_cast<size_t>(channel / LANES) * MAX_TILE + pixel) * LANES + channel % LANES;
}

std::vector<float> tile_of(int channels) {
  return random_floats(static_cast<size_t>(blocks_of(channels)) * MAX_TILE * LANES + LARGEST_MR * LANES);
}

void check_gemm(int rows, int k, int channels) {
  const std::vector<float> tile = tile_of(k), weights = random_floats(static_cast<size_t>(k) * channels);
  const int vectors = blocks_of(channels);
  std::vector<float> panels(static_cast<size_t>(k) * vectors * LANES, NAN);
  pack_panels(weights.data(), k, 1, channels, k, panels.data());
  int columns = 0, steps = 0;
  gemm(
      tile.data(), MAX_TILE, rows, panels.data(), k, vectors,
      [&](int row, int vector, const auto &column) {
        for (int r = 0; r < column.ROWS; ++r) {
          if (row + r >= rows) break;
          ++columns;
          float sums[LANES];
          store(sums, column.at[r]);
          for (int j = 0; j < LANES; ++j) {
            const int channel = vector * LANES + j;
            double expected = 0.0;
            for (int i = 0; i < k && channel < channels; ++i)
              expected += static_cast<double>(tile[place(i, row + r)]) * weights[static_cast<size_t>(channel) * k + i];
            CHECK(close(sums[j], expected, k));
          }
        }
      },
      [&] { ++steps; });
  CHECK(columns == rows * vectors);
  CHECK(steps == gemm_steps(rows, k, vectors));
}

void check_weight_gradient(int pixels, int k, int channels) {
  const std::vector<float> x = tile_of(k), d = tile_of(channels);
  const int vectors = blocks_of(channels);
  std::vector<float> gradient(static_cast<size_t>(blocks_of(k)) * LANES * vectors * LANES, NAN);
  for (const bool first_tile : {true, false}) {
    int steps = 0;
    add_weight_gradient(x.data(), d.data(), MAX_TILE, pixels, k, vectors, gradient.data(), first_tile,
                        [&] { ++steps; });
    CHECK(steps == weight_gradient_steps(pixels, k, vectors));
  }
  for (int i = 0; i < k; ++i) {
    for (int j = 0; j < channels; ++j) {
      double expected = 0.0;
      for (int p = 0; p < pixels; ++p) expected += 2.0 * x[place(i, p)] * d[place(j, p)];
      CHECK(close(gradient[static_cast<size_t>(i) * vectors * LANES + j], expected, 2 * pixels));
    }
  }
}

}  // namespace

int main() {
  for (const int k : {1, 15, 16, 17, 27, 40}) {
    for (const int channels : {1, 16, 17, 33, 56, 80, 129}) {
      for (const int rows : {1, 5, 8, 23, 24, 50, MAX_TILE}) check_gemm(rows, k, channels);
      for (const int pixels : {1, 7, MAX_TILE}) check_weight_gradient(pixels, k, channels);
    }
  }
  // What is not a number, or infinite, stays in its own row and column.
  std::vector<float> tile = tile_of(2), weights = {1, 1}, panels(2 * LANES);
  tile[place(1, 3)] = NAN;
  pack_panels(weights.data(), 2, 1, 1, 2, panels.data());
  gemm(tile.data(), MAX_TILE, 8, panels.data(), 2, 1, [&](int row, int, const auto &column) {
    for (int r = 0; r < column.ROWS && row + r < 8; ++r) {
      float sums[LANES];
      store(sums, column.at[r]);
      CHECK(std::isnan(sums[0]) == (row + r == 3));
    }
  });
}
