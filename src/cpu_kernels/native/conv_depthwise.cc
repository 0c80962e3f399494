// Depthwise 3x3 convolutions: a task is one image's plane of sixteen channels, or a row tile of it.
#if defined(__GNUC__) && !defined(__clang__)
// g++ would keep what one column has read for the next one, and has no registers left for it.
#pragma GCC optimize("no-predictive-commoning")
#endif

#include <algorithm>
#include <cstring>

#include "batch_norm.h"
#include "conv.h"
#include "depthwise.h"
#include "thread_pool.h"
#include "workspace.h"

namespace {

// The last four rows of a plane, with a border of zeros around it: row(y), y from -1 to height.
class Rows {
 public:
  static size_t floats(int width) { return static_cast<size_t>(width + 2) * LANES * 5; }

  Rows(float *memory, int height, int width) : memory_(memory), height_(height), pitch_((width + 2) * LANES) {
    std::memset(memory, 0, floats(width) * sizeof(float));
  }
  // Where row y goes; columns start at 0.
  float *place(int y) { return memory_ + (y & 3) * pitch_ + LANES; }
  const float *row(int y) const { return memory_ + (y < 0 || y >= height_ ? 4 : y & 3) * pitch_ + LANES; }

 private:
  float *memory_;
  int height_;
  size_t pitch_;
};

// Into how many row tiles a plane is cut where channel blocks and images alone are too few tasks: four rows or more
// each.
inline int row_tiles_of(const Layer &l) {
  return std::clamp(divide_up(MIN_TASKS, l.images * l.out_blocks()), 1, std::max(1, l.out_height / 4));
}

// The tasks of a layer: images and row tiles within each channel block.
struct Planes {
  int images, row_tiles, rows, parts;

  explicit Planes(const Layer &l)
      : images(l.images), row_tiles(row_tiles_of(l)), rows(l.out_height), parts(l.images * row_tiles) {}
  int first_row(int tile) const { return rows * tile / row_tiles; }
};

template <int S> void forward_planes(const Layer &l, const Activations &value, BlockedTensor y, PartialSums &moments) {
  const int blocks = l.out_blocks();
  const Planes planes(l);
  moments.prepare(planes.parts, blocks);
  parallel(planes.parts * blocks, [&](int task) {
    const int block = task / planes.parts, part = task % planes.parts, image = part / planes.row_tiles;
    const int first = planes.first_row(part % planes.row_tiles), last = planes.first_row(part % planes.row_tiles + 1);
    if (block == 0) moments.pixels[part] = (last - first) * l.out_width;
    float taps[TAPS * LANES];
    load_taps(l, block, taps);
    float *out = y.at(block, image * l.out_plane());
    float *kept = moments.at(part, blocks, block);
    Rows rows(thread_scratch(Rows::floats(l.width)), l.height, l.width);
    int loaded = std::max(0, first * S - 1);
    for (int row = first; row < last; ++row) {
      for (; loaded < std::min(row * S + 2, l.height); ++loaded)
        load_value<true>(value, block, (static_cast<size_t>(image) * l.height + loaded) * l.width, l.width,
                         rows.place(loaded));
      depthwise_row<S>(taps, rows.row(row * S - 1), rows.row(row * S), rows.row(row * S + 1),
                       [&](int lane, auto &&convolve) {
                         Moments<Register> total;
                         if (row == first) {
                           total.set_pivot(convolve(0));
                         } else {
                           total.read(kept + lane);
                         }
                         float *to = out + static_cast<size_t>(row) * l.out_width * LANES + lane;
                         for (int column = 0; column < l.out_width; ++column, to += LANES) {
                           const Register sum = convolve(column);
                           total.add(sum);
                           store(to, sum);
                         }
                         total.write(kept + lane);
                       });
    }
  });
}

// Adds the products of a row of the raw gradient with three rows of the input to the gradients of the taps.
template <int S>
inline void add_taps_gradient(const Layer &l, const float *gradient, const float *const (&rows)[3], int lane,
                              float *taps_gradient) {
  Taps sums(taps_gradient, lane);
  for (int ox = 0; ox < l.out_width; ++ox) {
    Register g;
    load(gradient + ox * LANES + lane, g);
#pragma GCC unroll 9
    for (int t = 0; t < TAPS; ++t) {
      Register x;
      load(rows[t / 3] + (ox * S - 1 + t % 3) * LANES + lane, x);
      sums.at[t] = multiply_add(g, x, sums.at[t]);
    }
  }
#pragma GCC unroll 9
  for (int t = 0; t < TAPS; ++t) store(taps_gradient + t * LANES + lane, sums.at[t]);
}

// finish(column, sum) for the input row y, from the rows of the raw gradient d: every output that saw an input, with
// the tap it used.
template <int S, class Finish>
inline void input_gradient_row(const Layer &l, const Rows &d, const Taps &w, int y, int lane, Finish &&finish) {
  if constexpr (S == 1) {
    const float *above = d.row(y - 1) + lane, *here = d.row(y) + lane, *below = d.row(y + 1) + lane;
    for (int x = 0; x < l.width; ++x) {
      const int i = (x - 1) * LANES;
      finish(x,
             convolve_row<8, -1>(w, above + i) + convolve_row<5, -1>(w, here + i) + convolve_row<2, -1>(w, below + i));
    }
  } else {
    // An even row was seen by the middle row of one window, an odd one by the last of one and the first of the next;
    // the columns likewise.
    // Two loops, since the taps of both and the sums are more than sixteen registers.
    const bool odd = y % 2 != 0;
    const float *one = d.row(y / 2) + lane, *two = d.row(odd ? y / 2 + 1 : -1) + lane;
    const auto add_tap = [](Register tap, const float *g, Register sum) {
      Register value;
      load(g, value);
      return multiply_add(tap, value, sum);
    };
    const Register left = w.at[odd ? 6 : 3], middle = w.at[odd ? 7 : 4], right = w.at[odd ? 8 : 5];
    for (int x = 0; x < l.width; x += 2) {
      const int i = x / 2 * LANES;
      finish(x, add_tap(w.at[1], two + i, add_tap(middle, one + i, Register{})));
    }
    for (int x = 1; x < l.width; x += 2) {
      const int i = x / 2 * LANES, next = i + LANES;
      const Register of_one = add_tap(left, one + next, add_tap(right, one + i, Register{}));
      finish(x, of_one + add_tap(w.at[0], two + next, add_tap(w.at[2], two + i, Register{})));
    }
  }
}

template <int S>
void backward_planes(const Layer &l, const Activations &value, const RawGradient &gradient, const Activations &producer,
                     ConstBlockedTensor shortcut_gradient, float *weight_gradient, BlockedTensor input_gradient,
                     PartialSums &sums) {
  const int blocks = l.out_blocks();
  const Planes planes(l);
  const auto task_index = [&](int block, int part) { return static_cast<size_t>(block) * planes.parts + part; };
  float *partial = shared_scratch(ScratchSlot::kernel, task_index(blocks, 0) * TAPS * LANES);
  sums.prepare(planes.parts, blocks);
  parallel(planes.parts * blocks, [&](int task) {
    const int block = task / planes.parts, part = task % planes.parts, image = part / planes.row_tiles;
    const int first = planes.first_row(part % planes.row_tiles), last = planes.first_row(part % planes.row_tiles + 1);
    const size_t first_in = image * l.in_plane(), first_out = image * l.out_plane();
    float *memory = thread_scratch(Rows::floats(l.width) + Rows::floats(l.out_width));
    Rows x(memory, l.height, l.width), d(memory + Rows::floats(l.width), l.out_height, l.out_width);
    float taps[TAPS * LANES], *taps_gradient = partial + task_index(block, part) * TAPS * LANES;
    load_taps(l, block, taps);
    std::fill_n(taps_gradient, TAPS * LANES, 0.0f);
    float *kept = sums.at(part, blocks, block);
    std::fill_n(kept, PartialSums::SUMS * LANES, 0.0f);
    int x_loaded = std::max(0, first * S - 1), d_loaded = std::max(0, first - 1);
    for (int oy = first; oy < last; ++oy) {
      for (; d_loaded < std::min(oy + 2, l.out_height); ++d_loaded)
        load_gradient<true>(gradient, block, first_out + static_cast<size_t>(d_loaded) * l.out_width, l.out_width,
                            d.place(d_loaded));
      for (; x_loaded < std::min(oy * S + 2, l.height); ++x_loaded)
        load_value<true>(value, block, first_in + static_cast<size_t>(x_loaded) * l.width, l.width, x.place(x_loaded));
      for (int lane = 0; lane < LANES; lane += REGISTER_LANES)
        add_taps_gradient<S>(l, d.row(oy), {x.row(oy * S - 1), x.row(oy * S), x.row(oy * S + 1)}, lane, taps_gradient);
      if (!input_gradient) continue;
      for (int y = oy * S; y < std::min(oy * S + S, l.height); ++y) {
        const size_t row = first_in + static_cast<size_t>(y) * l.width;
        for (int lane = 0; lane < LANES; lane += REGISTER_LANES) {
          const BackwardEpilogue<Register> epilogue(producer, block, lane);
          float *out = input_gradient.at(block, row) + lane;
          const float *shortcut = shortcut_gradient ? shortcut_gradient.at(block, row) + lane : nullptr;
          GradientSums<Register> total;
          total.read(kept + lane);
          input_gradient_row<S>(l, d, Taps(taps, lane), y, lane, [&](int column, Register g) {
            if (shortcut != nullptr) {
              Register other;
              load(shortcut + static_cast<size_t>(column) * LANES, other);
              g += other;
            }
            store(out + static_cast<size_t>(column) * LANES, epilogue(g, row + column, total));
          });
          total.write(kept + lane);
        }
      }
    }
  });
  parallel(blocks, [&](int block) {
    for (int t = 0; t < TAPS; ++t) {
      Vec total = {};
      for (int part = 0; part < planes.parts; ++part)
        total += load(partial + (task_index(block, part) * TAPS + t) * LANES);
      float lanes[LANES];
      store(lanes, total);
      for (int j = 0; j < std::min(LANES, l.out_channels - block * LANES); ++j)
        weight_gradient[(block * LANES + j) * TAPS + t] = lanes[j];
    }
  });
}

}  // namespace

void depthwise_forward(const Layer &l, const Activations &value, BlockedTensor y, PartialSums &moments) {
  (l.stride == 1 ? forward_planes<1> : forward_planes<2>)(l, value, y, moments);
}

void depthwise_backward(const Layer &l, const Activations &value, const RawGradient &gradient,
                        const Activations &producer, ConstBlockedTensor shortcut_gradient, float *weight_gradient,
                        BlockedTensor input_gradient, PartialSums &sums) {
  (l.stride == 1 ? backward_planes<1> : backward_planes<2>)(l, value, gradient, producer, shortcut_gradient,
                                                            weight_gradient, input_gradient, sums);
}
