// Rows of depthwise convolutions in training, forward and backward. Included first, for what it tells the compiler.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// g++ would keep what one column has read for the next one, and has no registers left for it.
#pragma GCC optimize("no-predictive-commoning")
#endif

#include <algorithm>
#include <cstring>

#include "batch_norm.h"
#include "depthwise.h"

// The last four rows of a plane of each of some channel blocks, with a border of zeros around it: row(block, y), y from
// -1 to height.
class Rows {
 public:
  static size_t floats(int blocks, int width) { return static_cast<size_t>(width + 2) * LANES * (4 * blocks + 1); }

  Rows(float *memory, int blocks, int height, int width)
      : zeros_(memory + LANES), height_(height), pitch_(static_cast<size_t>(width + 2) * LANES) {
    std::memset(memory, 0, floats(blocks, width) * sizeof(float));
  }
  // Where row y goes; columns start at 0.
  float *place(int block, int y) { return zeros_ + pitch_ * (4 * block + (y & 3) + 1); }
  const float *row(int block, int y) const {
    return y < 0 || y >= height_ ? zeros_ : zeros_ + pitch_ * (4 * block + (y & 3) + 1);
  }

 private:
  float *zeros_;
  int height_;
  size_t pitch_;
};

// A layer's output planes cut into row tiles of four rows or more, where the images and `blocks` tasks for each are too
// few tasks.
struct Planes {
  int images, row_tiles, rows, parts;

  Planes(const Layer &l, int blocks)
      : images(l.images),
        row_tiles(std::clamp(divide_up(MIN_TASKS, l.images * blocks), 1, std::max(1, l.out_height / 4))),
        rows(l.out_height),
        parts(l.images * row_tiles) {}
  int image(int part) const { return part / row_tiles; }
  int first_row(int part) const { return rows * (part % row_tiles) / row_tiles; }
  int last_row(int part) const { return rows * (part % row_tiles + 1) / row_tiles; }
};

// An output row of a channel block and its moments; the first row of a part sets the pivot.
template <int S>
inline void convolve_row_and_add(const Layer &l, const float *taps, const Rows &rows, int block, int row, bool first,
                                 float *out, float *moments) {
  const int middle = l.first_row + row * S, shift = l.first_column * LANES;
  depthwise_row<S>(taps, rows.row(block, middle - 1) + shift, rows.row(block, middle) + shift,
                   rows.row(block, middle + 1) + shift, [&](int lane, auto &&convolve) {
                     Moments<Register> total;
                     if (first) {
                       total.set_pivot(convolve(0));
                     } else {
                       total.read(moments + lane);
                     }
                     float *to = out + lane;
                     for (int column = 0; column < l.out_width; ++column, to += LANES) {
                       const Register sum = convolve(column);
                       total.add(sum);
                       store(to, sum);
                     }
                     total.write(moments + lane);
                   });
}

// Adds the products of a row of the raw gradient with three rows of the input to the gradients of the taps.
template <int S>
inline void add_taps_gradient(const Layer &l, const Rows &d, const Rows &x, int block, int row, float *taps_gradient) {
  const int middle = l.first_row + row * S;
  const float *const rows[3] = {x.row(block, middle - 1), x.row(block, middle), x.row(block, middle + 1)};
  const float *const d_row = d.row(block, row);
  for (int lane = 0; lane < LANES; lane += REGISTER_LANES) {
    const float *gradient = d_row + lane;
    Taps sums(taps_gradient, lane);
    for (int ox = 0; ox < l.out_width; ++ox) {
      Register g;
      load(gradient + ox * LANES, g);
#pragma GCC unroll 9
      for (int t = 0; t < TAPS; ++t) {
        Register value;
        load(rows[t / 3] + (l.first_column + ox * S - 1 + t % 3) * LANES + lane, value);
        sums.at[t] = multiply_add(g, value, sums.at[t]);
      }
    }
#pragma GCC unroll 9
    for (int t = 0; t < TAPS; ++t) store(taps_gradient + t * LANES + lane, sums.at[t]);
  }
}

// finish(column, sum) for the input row y, from the rows of the raw gradient d: every output that saw an input, with
// the tap it used.
template <int S, class Finish>
inline void input_gradient_row(const Layer &l, const Rows &d, int block, const Taps &w, int y, int lane,
                               Finish &&finish) {
  if constexpr (S == 1) {
    const float *above = d.row(block, y - 1) + lane, *here = d.row(block, y) + lane,
                *below = d.row(block, y + 1) + lane;
    for (int x = 0; x < l.width; ++x) {
      const int i = (x - 1) * LANES;
      finish(x,
             convolve_row<8, -1>(w, above + i) + convolve_row<5, -1>(w, here + i) + convolve_row<2, -1>(w, below + i));
    }
  } else {
    // Counted from the middle of the first window, an even row was seen by the middle row of one window, an odd one by
    // the last of one and the first of the next; the columns likewise. The one before that middle is odd, too.
    // Two loops, since the taps of both and the sums are more than sixteen registers.
    const int from_middle = y - l.first_row, window = (from_middle + 1) / 2;
    const bool odd = from_middle % 2 != 0;
    const float *one = d.row(block, odd ? window - 1 : window) + lane, *two = d.row(block, odd ? window : -1) + lane;
    const auto add_tap = [](Register tap, const float *g, Register sum) {
      Register value;
      load(g, value);
      return multiply_add(tap, value, sum);
    };
    const Register left = w.at[odd ? 6 : 3], middle = w.at[odd ? 7 : 4], right = w.at[odd ? 8 : 5];
    for (int x = l.first_column; x < l.width; x += 2) {
      const int i = (x - l.first_column) / 2 * LANES;
      finish(x, add_tap(w.at[1], two + i, add_tap(middle, one + i, Register{})));
    }
    for (int x = 1 - l.first_column; x < l.width; x += 2) {
      const int next = (x - l.first_column + 1) / 2 * LANES, i = next - LANES;
      const Register of_one = add_tap(left, one + next, add_tap(right, one + i, Register{}));
      finish(x, of_one + add_tap(w.at[0], two + next, add_tap(w.at[2], two + i, Register{})));
    }
  }
}

// The gradients of all taps, [block][part][tap][16]: of each task its own, summed up into the framework's layout.
class TapsGradients {
 public:
  static size_t floats(const Layer &l, int parts) { return static_cast<size_t>(l.out_blocks()) * parts * TAPS * LANES; }

  TapsGradients(float *memory, int parts) : memory_(memory), parts_(parts) {}
  float *at(int block, int part) const { return memory_ + (static_cast<size_t>(block) * parts_ + part) * TAPS * LANES; }
  void clear(int block, int part) const { std::fill_n(at(block, part), TAPS * LANES, 0.0f); }
  void sum(const Layer &l, float *weight_gradient) const;

 private:
  float *memory_;
  int parts_;
};
