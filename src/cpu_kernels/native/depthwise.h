// What the depthwise convolutions of training and inference share. Their loops go over a register, not a vector, at a
// time: nine taps and nine sums then stay in registers on every processor.
#pragma once

#include <algorithm>
#include <cstring>

#include "layer.h"
#include "tasks.h"

constexpr int REGISTER_LANES = REGISTER_BYTES / static_cast<int>(sizeof(float));
constexpr int TAPS = 9;

// A channel block's weights, [tap][16].
inline void load_taps(const Layer &l, int block, float *taps) {
  std::fill_n(taps, TAPS * LANES, 0.0f);
  for (int j = 0; j < std::min(LANES, l.out_channels - block * LANES); ++j)
    for (int t = 0; t < TAPS; ++t) taps[t * LANES + j] = l.weight[(block * LANES + j) * TAPS + t];
}

// The taps of one register's channels.
struct Taps {
  Register at[TAPS];

  Taps(const float *taps, int lane) {
#pragma GCC unroll 9
    for (int t = 0; t < TAPS; ++t) load(taps + t * LANES + lane, at[t]);
  }
};

// Three taps from `first` on, in steps of `step`, times three neighbours in a row.
template <int FIRST, int STEP> ALWAYS_INLINE Register convolve_row(const Taps &taps, const float *row) {
  Register left, middle, right;
  load(row, left);
  load(row + LANES, middle);
  load(row + 2 * LANES, right);
  const Register sum = multiply_add(taps.at[FIRST + STEP], middle, taps.at[FIRST] * left);
  return multiply_add(taps.at[FIRST + 2 * STEP], right, sum);
}

// The last four rows of a plane, with a border of zeros around it: row(y), y from -1 to height.
class Rows {
 public:
  static size_t floats(int width) { return static_cast<size_t>(width + 2) * LANES * 5; }

  Rows(float *memory, int height, int width) : memory_(memory), height_(height), pitch_((width + 2) * LANES) {
    std::memset(memory, 0, floats(width) * sizeof(float));
  }
  // Where row y goes; columns start at 0.
  float *place(int y) { return memory_ + (y & 3) * pitch_ + LANES; }
  const float *row(int y) const {
    return memory_ + (y < 0 || y >= height_ ? 4 : y & 3) * pitch_ + LANES;
  }

 private:
  float *memory_;
  int height_;
  size_t pitch_;
};

// Output rows cut into bands, where channel blocks and images alone are too few tasks: four rows or more each.
inline int row_bands(const Layer &l) {
  return std::clamp(divide_up(MIN_TASKS, l.images * l.out_blocks()), 1, std::max(1, l.out_height / 4));
}

// finish_row(row, lane, convolve) for output rows first ... last - 1, in order, of one plane, and each register of its
// channels: convolve(column) is the output there. load_row(y, out) fetches an input row, each once. `memory`:
// Rows::floats(l.width).
template <int S, class LoadRow, class FinishRow>
inline void depthwise_plane(const Layer &l, const float *taps, int first, int last, float *memory, LoadRow &&load_row,
                            FinishRow &&finish_row) {
  Rows rows(memory, l.height, l.width);
  int loaded = std::max(0, first * S - 1);
  for (int oy = first; oy < last; ++oy) {
    for (; loaded < std::min(oy * S + 2, l.height); ++loaded) load_row(loaded, rows.place(loaded));
    const float *r0 = rows.row(oy * S - 1), *r1 = rows.row(oy * S), *r2 = rows.row(oy * S + 1);
    for (int lane = 0; lane < LANES; lane += REGISTER_LANES) {
      const Taps w(taps, lane);
      finish_row(oy, lane, [&](int ox) {
        const int x = (ox * S - 1) * LANES + lane;
        return convolve_row<0, 1>(w, r0 + x) + convolve_row<3, 1>(w, r1 + x) + convolve_row<6, 1>(w, r2 + x);
      });
    }
  }
}
