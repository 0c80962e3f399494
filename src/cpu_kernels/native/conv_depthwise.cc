// Depthwise 3x3 convolutions: a task is one image's plane of sixteen channels, or a row tile of it.
#include "depthwise_training.h"

#include "conv.h"
#include "thread_pool.h"
#include "workspace.h"

namespace {

template <int S> void forward_planes(const Layer &l, const Activations &value, BlockedTensor y, PartialSums &moments) {
  const int blocks = l.out_blocks();
  const Planes planes(l, blocks);
  moments.prepare(planes.parts, blocks);
  parallel(planes.parts * blocks, [&](int task) {
    const int block = task / planes.parts, part = task % planes.parts, image = planes.image(part);
    const int first = planes.first_row(part), last = planes.last_row(part);
    if (block == 0) moments.pixels[part] = (last - first) * l.out_width;
    float taps[TAPS * LANES];
    load_taps(l, block, taps);
    Rows rows(thread_scratch(Rows::floats(1, l.width)), 1, l.height, l.width);
    int loaded = std::max(0, l.first_row + first * S - 1);
    for (int row = first; row < last; ++row) {
      for (; loaded < std::min(l.first_row + row * S + 2, l.height); ++loaded)
        load_value<true>(value, block, (static_cast<size_t>(image) * l.height + loaded) * l.width, l.width,
                         rows.place(0, loaded));
      convolve_row_and_add<S>(l, taps, rows, 0, row, row == first,
                              y.at(block, image * l.out_plane() + static_cast<size_t>(row) * l.out_width),
                              moments.at(part, blocks, block));
    }
  });
}

template <int S>
void backward_planes(const Layer &l, const Activations &value, const RawGradient &gradient, const Activations &producer,
                     ConstBlockedTensor shortcut_gradient, float *weight_gradient, BlockedTensor input_gradient,
                     PartialSums &sums) {
  const int blocks = l.out_blocks();
  const Planes planes(l, blocks);
  const TapsGradients gradients(shared_scratch(ScratchSlot::kernel, TapsGradients::floats(l, planes.parts)),
                                planes.parts);
  sums.prepare(planes.parts, blocks);
  parallel(planes.parts * blocks, [&](int task) {
    const int block = task / planes.parts, part = task % planes.parts, image = planes.image(part);
    const int first = planes.first_row(part), last = planes.last_row(part);
    const size_t first_in = image * l.in_plane(), first_out = image * l.out_plane();
    float *memory = thread_scratch(Rows::floats(1, l.width) + Rows::floats(1, l.out_width));
    Rows x(memory, 1, l.height, l.width), d(memory + Rows::floats(1, l.width), 1, l.out_height, l.out_width);
    float taps[TAPS * LANES];
    load_taps(l, block, taps);
    gradients.clear(block, part);
    float *kept = sums.at(part, blocks, block);
    std::fill_n(kept, PartialSums::SUMS * LANES, 0.0f);
    int x_loaded = std::max(0, l.first_row + first * S - 1), d_loaded = std::max(0, first - 1);
    for (int oy = first; oy < last; ++oy) {
      for (; d_loaded < std::min(oy + 2, l.out_height); ++d_loaded)
        load_gradient<true>(gradient, block, first_out + static_cast<size_t>(d_loaded) * l.out_width, l.out_width,
                            d.place(0, d_loaded));
      for (; x_loaded < std::min(l.first_row + oy * S + 2, l.height); ++x_loaded)
        load_value<true>(value, block, first_in + static_cast<size_t>(x_loaded) * l.width, l.width,
                         x.place(0, x_loaded));
      add_taps_gradient<S>(l, d, x, 0, oy, gradients.at(block, part));
      if (!input_gradient) continue;
      for (int y = oy * S; y < std::min(oy * S + S, l.height); ++y) {
        const size_t row = first_in + static_cast<size_t>(y) * l.width;
        for (int lane = 0; lane < LANES; lane += REGISTER_LANES) {
          const BackwardEpilogue<Register> epilogue(producer, block, lane);
          float *out = input_gradient.at(block, row) + lane;
          const float *shortcut = shortcut_gradient ? shortcut_gradient.at(block, row) + lane : nullptr;
          GradientSums<Register> total;
          total.read(kept + lane);
          input_gradient_row<S>(l, d, 0, Taps(taps, lane), y, lane, [&](int column, Register g) {
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
  gradients.sum(l, weight_gradient);
}

}  // namespace

void TapsGradients::sum(const Layer &l, float *weight_gradient) const {
  parallel(l.out_blocks(), [&](int block) {
    for (int t = 0; t < TAPS; ++t) {
      Vec total = {};
      for (int part = 0; part < parts_; ++part) total += load(at(block, part) + t * LANES);
      float lanes[LANES];
      store(lanes, total);
      for (int j = 0; j < std::min(LANES, l.out_channels - block * LANES); ++j)
        weight_gradient[(block * LANES + j) * TAPS + t] = lanes[j];
    }
  });
}

void depthwise_forward(const Layer &l, const Activations &value, BlockedTensor y, PartialSums &moments) {
  (l.stride == 1 ? forward_planes<1> : forward_planes<2>)(l, value, y, moments);
}

void depthwise_backward(const Layer &l, const Activations &value, const RawGradient &gradient,
                        const Activations &producer, ConstBlockedTensor shortcut_gradient, float *weight_gradient,
                        BlockedTensor input_gradient, PartialSums &sums) {
  (l.stride == 1 ? backward_planes<1> : backward_planes<2>)(l, value, gradient, producer, shortcut_gradient,
                                                            weight_gradient, input_gradient, sums);
}
