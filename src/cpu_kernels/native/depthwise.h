// What the depthwise convolutions of training and inference share. Their loops go over a register, not a vector, at a
// time: nine taps and nine sums then stay in registers on every processor.
#pragma once

#include <algorithm>

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

// finish(lane, convolve) for each register of a block's channels: convolve(column) is the output there, of the three
// input rows r0, r1, r2. These are given from the middle of the first window on; one pixel before it and one behind the
// last are read, too.
template <int S, class Finish>
ALWAYS_INLINE void depthwise_row(const float *taps, const float *r0, const float *r1, const float *r2,
                                 Finish &&finish) {
  for (int lane = 0; lane < LANES; lane += REGISTER_LANES) {
    const Taps w(taps, lane);
    finish(lane, [&](int ox) {
      const int x = (ox * S - 1) * LANES + lane;
      return convolve_row<0, 1>(w, r0 + x) + convolve_row<3, 1>(w, r1 + x) + convolve_row<6, 1>(w, r2 + x);
    });
  }
}
