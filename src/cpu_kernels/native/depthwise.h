// What the depthwise convolutions of training and inference share.
#pragma once

#include <algorithm>
#include <cstring>

#include "layers.h"

inline void load_taps(const Layer &l, int block, Vec (&taps)[9]) {
  for (int t = 0; t < 9; ++t) {
    taps[t] = Vec{};
    for (int j = 0; j < std::min(LANES, l.out_channels - block * LANES); ++j)
      taps[t][j] = l.weight[(block * LANES + j) * 9 + t];
  }
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

// emit(row, column, sum) for the outputs of rows first ... last - 1, in order, of one plane; load_row(y, out) fetches
// an input row, each once. `memory`: Rows::floats(l.width).
template <int S, class LoadRow, class Emit>
inline void depthwise_plane(const Layer &l, const Vec (&w)[9], int first, int last, float *memory, LoadRow &&load_row,
                            Emit &&emit) {
  Rows rows(memory, l.height, l.width);
  int loaded = std::max(0, first * S - 1);
  for (int oy = first; oy < last; ++oy) {
    for (; loaded < std::min(oy * S + 2, l.height); ++loaded) load_row(loaded, rows.place(loaded));
    const float *r0 = rows.row(oy * S - 1), *r1 = rows.row(oy * S), *r2 = rows.row(oy * S + 1);
    for (int ox = 0; ox < l.out_width; ++ox) {
      const int x = (ox * S - 1) * LANES;
      const Vec s0 = w[0] * load(r0 + x) + w[1] * load(r0 + x + LANES) + w[2] * load(r0 + x + 2 * LANES);
      const Vec s1 = w[3] * load(r1 + x) + w[4] * load(r1 + x + LANES) + w[5] * load(r1 + x + 2 * LANES);
      const Vec s2 = w[6] * load(r2 + x) + w[7] * load(r2 + x + LANES) + w[8] * load(r2 + x + 2 * LANES);
      emit(oy, ox, s0 + s1 + s2);
    }
  }
}
