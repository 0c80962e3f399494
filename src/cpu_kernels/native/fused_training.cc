// The batch normalisation between the two layers needs two sums over the whole batch before the gradient of its input
// is known: d = a * g + b * (y - mean) + c, where g, behind it, is what a depthwise convolution's backward pass gives.
// a is known beforehand, b and c are not. But y = W x, so that with x and y less their means, and sums over all pixels,
//   gradient of the weights: sum of d x^T = a * sum of g x^T + b * W * sum of x x^T + c * sum of x^T
//   gradient of the input:   W^T d = W^T (a * g) + (W^T diag(b) W) x + W^T c
// While rows of g are in the cache their part of all sums and W^T (a * g) are computed; the rest is small: a pass over
// the input x and its gradient.
#include "depthwise_training.h"

#include "fused_training.h"

#include <cmath>
#include <vector>

#include "conv.h"
#include "thread_pool.h"
#include "workspace.h"

namespace {

// The expanded rows that the depthwise convolution is about to read, in sequence, computed from the input of the block.
class ExpandedRows {
 public:
  // `raw`: whether raw(y) is wanted, too.
  static size_t floats(const Layer &expand, bool raw) {
    return Rows::floats(expand.out_blocks(), expand.width) + raw_floats(expand, raw) +
           (static_cast<size_t>(expand.in_blocks()) * expand.width + LARGEST_MR) * LANES;
  }

  ExpandedRows(const ExpandDepthwise &layers, const float *panels, int image, int first_row, bool raw, float *memory)
      : expand_(layers.expand),
        value_(layers.value),
        norm_(layers.norm),
        panels_(panels),
        first_pixel_(image * layers.expand.out_plane()),
        next_(std::max(0, first_row)),
        rows_(memory, expand_.out_blocks(), expand_.height, expand_.width),
        raw_(raw ? memory + Rows::floats(expand_.out_blocks(), expand_.width) : nullptr),
        tile_(memory + Rows::floats(expand_.out_blocks(), expand_.width) + raw_floats(expand_, raw)) {}

  // Computes all rows before `end`.
  void advance(int end) {
    for (; next_ < std::min(end, expand_.height); ++next_) compute(next_);
  }
  // The last four, normalised and activated.
  const Rows &rows() const { return rows_; }
  // The last two as the convolution gave them.
  BlockedTensor raw(int y) const {
    const size_t width = expand_.width;
    return {raw_ + (y & 1) * expand_.out_blocks() * width * LANES, width};
  }

 private:
  static size_t raw_floats(const Layer &expand, bool raw) {
    return raw ? size_t{2} * expand.out_blocks() * expand.width * LANES : 0;
  }

  void compute(int y) {
    const int width = expand_.width, k_blocks = expand_.in_blocks();
    const size_t first = first_pixel_ + static_cast<size_t>(y) * width;
    for (int b = 0; b < k_blocks; ++b)
      load_value(value_, b, first, width, tile_ + static_cast<size_t>(b) * width * LANES);
    const BlockedTensor raw_row = raw_ != nullptr ? raw(y) : BlockedTensor{};
    gemm_few_rows(tile_, width, width, panels_, expand_.in_channels, expand_.out_blocks(),
                  [&](int pixel, int block, const auto &column) {
                    const Vec scale = load(norm_.scale + block * LANES), shift = load(norm_.shift + block * LANES);
                    float *out = rows_.place(block, y) + static_cast<size_t>(pixel) * LANES;
                    float *raw_out = raw_row ? raw_row.at(block, pixel) : nullptr;
#pragma GCC unroll 24
                    for (int r = 0; r < column.ROWS; ++r) {
                      if (pixel + r >= width) break;
                      if (raw_out != nullptr) store(raw_out + r * LANES, column.at[r]);
                      store(out + r * LANES, relu6(multiply_add(column.at[r], scale, shift)));
                    }
                  });
  }

  const Layer &expand_;
  const Activations &value_;
  ConstNorm norm_;
  const float *panels_;
  size_t first_pixel_;
  int next_;
  Rows rows_;
  float *raw_, *tile_;
};

std::vector<float> all_taps(const Layer &l) {
  std::vector<float> taps(static_cast<size_t>(l.out_blocks()) * TAPS * LANES);
  for (int block = 0; block < l.out_blocks(); ++block) load_taps(l, block, taps.data() + block * TAPS * LANES);
  return taps;
}

template <int S> void forward_planes(const ExpandDepthwise &layers, BlockedTensor y, PartialSums &moments) {
  const Layer &expand = layers.expand, &l = layers.depthwise;
  const int k = expand.in_channels, blocks = l.out_blocks();
  const Planes planes(l, 1);
  float *panels = shared_scratch(ScratchSlot::kernel, static_cast<size_t>(k) * blocks * LANES);
  pack_panels(expand.weight, k, 1, expand.out_channels, k, panels);
  const std::vector<float> taps = all_taps(l);
  moments.prepare(planes.parts, blocks);
  parallel(planes.parts, [&](int part) {
    const int first = planes.first_row(part), last = planes.last_row(part), image = planes.image(part);
    moments.pixels[part] = (last - first) * l.out_width;
    ExpandedRows expanded(layers, panels, image, first * S - 1, false,
                          thread_scratch(ExpandedRows::floats(expand, false)));
    for (int row = first; row < last; ++row) {
      expanded.advance(row * S + 2);
      for (int block = 0; block < blocks; ++block)
        convolve_row_and_add<S>(l, taps.data() + block * TAPS * LANES, expanded.rows(), block, row, row == first,
                                y.at(block, image * l.out_plane() + static_cast<size_t>(row) * l.out_width),
                                moments.at(part, blocks, block));
    }
  });
}

// A value near the mean of each input channel: what is summed less it loses no digits. The mean of a sample.
std::vector<float> pivots_of(const Layer &l, const Activations &value) {
  constexpr size_t SAMPLE = 64;
  const size_t pixels = l.in_pixels(), count = std::min(SAMPLE, pixels);
  std::vector<float> pivots(static_cast<size_t>(l.in_blocks()) * LANES);
  for (size_t i = 0; i < count; ++i) {
    for (int block = 0; block < l.in_blocks(); ++block) {
      float x[LANES], *sum = pivots.data() + block * LANES;
      load_value(value, block, pixels * i / count, 1, x);
      store(sum, load(sum) + load(x));
    }
  }
  for (float &pivot : pivots) pivot = std::isfinite(pivot) ? pivot / static_cast<float>(count) : 0.0f;
  return pivots;
}

// A tile of the input less the pivots.
void load_centred(const ExpandDepthwise &layers, const std::vector<float> &pivots, size_t first, int count,
                  size_t stride, float *out) {
  for (int block = 0; block < layers.expand.in_blocks(); ++block, out += stride * LANES) {
    load_value(layers.value, block, first, count, out);
    const Vec pivot = load(pivots.data() + block * LANES);
    for (int i = 0; i < count * LANES; i += LANES) store(out + i, load(out + i) - pivot);
  }
}

void add_pixels(const float *tile, size_t stride, int count, int blocks, float *sums) {
  for (int block = 0; block < blocks; ++block, tile += stride * LANES, sums += LANES) {
    Vec sum = load(sums);
    for (int i = 0; i < count * LANES; i += LANES) sum += load(tile + i);
    store(sums, sum);
  }
}

// What each part of the pixels sums up: for each input channel the products of x with g, all expanded channels, and
// with x, all input channels; then the sums of x. x is less its pivot here.
struct InputSums {
  int channels;  // of the input, whole blocks
  size_t row, floats;
  std::vector<float> data;

  InputSums(const Layer &expand, int parts)
      : channels(expand.in_blocks() * LANES),
        row(static_cast<size_t>(expand.out_blocks() + expand.in_blocks()) * LANES),
        floats(channels * (row + 1)),
        data(parts * floats) {}
  float *products(int part) { return data.data() + part * floats; }
  float *sums(int part) { return products(part) + channels * row; }
  std::vector<double> total() const {
    std::vector<double> total(floats);
    parallel(channels + 1, [&](int channel) {
      const size_t first = channel * row, last = std::min(first + row, floats);
      for (size_t start = 0; start < data.size(); start += floats)
        for (size_t i = first; i < last; ++i) total[i] += data[start + i];
    });
    return total;
  }
};

// Some rows of g, and behind its blocks those of the input x at the same pixels: what the products are computed from.
class GradientTile {
 public:
  static size_t floats(const Layer &expand) {
    return (stride_of(expand) * (expand.out_blocks() + expand.in_blocks()) + LARGEST_MR) * LANES;
  }

  GradientTile(const Layer &expand, size_t first_pixel, float *memory)
      : stride_(stride_of(expand)), width_(expand.width), first_(first_pixel), memory_(memory) {}
  size_t stride() const { return stride_; }
  size_t first_pixel() const { return first_; }
  int count() const { return count_; }
  bool is_full() const { return count_ + width_ > static_cast<int>(stride_); }
  float *at(int block) const { return memory_ + block * stride_ * LANES; }
  // Where the next row goes, before it is added.
  float *row(int block) const { return at(block) + static_cast<size_t>(count_) * LANES; }
  void add_row() { count_ += width_; }
  void clear() {
    first_ += count_;
    count_ = 0;
  }

 private:
  static size_t stride_of(const Layer &expand) {
    return static_cast<size_t>(expand.width) * std::max(1, MAX_TILE / expand.width);
  }

  size_t stride_;
  int width_, count_ = 0;
  size_t first_;
  float *memory_;
};

// The backward pass as far as it can go without the sums over the whole batch. `input_gradient`, if there is one, is
// then W^T (a * g), and the shortcut's.
template <int S>
void backward_planes(const ExpandDepthwise &layers, const RawGradient &gradient, const std::vector<float> &pivots,
                     const Planes &planes, ConstBlockedTensor shortcut_gradient, const TapsGradients &taps_gradients,
                     BlockedTensor input_gradient, PartialSums &sums, InputSums &input_sums, float *panels) {
  const Layer &expand = layers.expand, &l = layers.depthwise;
  const int k = expand.in_channels, k_blocks = expand.in_blocks(), blocks = l.out_blocks();
  float *gradient_panels = panels + static_cast<size_t>(k) * blocks * LANES;
  pack_panels(expand.weight, k, 1, expand.out_channels, k, panels);
  std::vector<float> scaled(expand.weight, expand.weight + static_cast<size_t>(k) * expand.out_channels);
  for (int o = 0; o < expand.out_channels; ++o)
    for (int i = 0; i < k; ++i) scaled[o * k + i] *= layers.norm.scale[o];
  pack_panels(scaled.data(), expand.out_channels, k, k, 1, gradient_panels);
  const std::vector<float> taps = all_taps(l);
  sums.prepare(planes.parts, blocks);
  parallel(planes.parts, [&](int part) {
    const int first = planes.first_row(part), last = planes.last_row(part), image = planes.image(part);
    const size_t first_out = image * l.out_plane();
    const size_t expanded_floats = ExpandedRows::floats(expand, true), d_floats = Rows::floats(blocks, l.out_width);
    float *memory = thread_scratch(expanded_floats + d_floats + GradientTile::floats(expand));
    ExpandedRows expanded(layers, panels, image, first * S - 1, true, memory);
    Rows d(memory + expanded_floats, blocks, l.out_height, l.out_width);
    GradientTile tile(expand, image * l.in_plane() + static_cast<size_t>(first) * S * l.width,
                      memory + expanded_floats + d_floats);
    std::fill_n(sums.at(part, blocks, 0), blocks * PartialSums::SUMS * LANES, 0.0f);
    for (int block = 0; block < blocks; ++block) taps_gradients.clear(block, part);
    bool first_tile = true;
    const auto finish_tile = [&] {
      float *x = tile.at(blocks);
      load_centred(layers, pivots, tile.first_pixel(), tile.count(), tile.stride(), x);
      add_pixels(x, tile.stride(), tile.count(), k_blocks, input_sums.sums(part));
      add_weight_gradient(x, tile.at(0), static_cast<int>(tile.stride()), tile.count(), k, blocks + k_blocks,
                          input_sums.products(part), first_tile);
      first_tile = false;
      if (input_gradient) {
        gemm(tile.at(0), tile.stride(), tile.count(), gradient_panels, expand.out_channels, k_blocks,
             [&](int pixel, int block, const auto &column) {
               const size_t start = tile.first_pixel() + pixel;
#pragma GCC unroll 24
               for (int r = 0; r < column.ROWS; ++r) {
                 if (pixel + r >= tile.count()) break;
                 Vec g = column.at[r];
                 if (shortcut_gradient) g += load(shortcut_gradient.at(block, start + r));
                 store(input_gradient.at(block, start + r), g);
               }
             });
      }
      tile.clear();
    };
    int loaded = std::max(0, first - 1);
    for (int oy = first; oy < last; ++oy) {
      for (; loaded < std::min(oy + 2, l.out_height); ++loaded)
        for (int block = 0; block < blocks; ++block)
          load_gradient<true>(gradient, block, first_out + static_cast<size_t>(loaded) * l.out_width, l.out_width,
                              d.place(block, loaded));
      expanded.advance(oy * S + 2);
      for (int block = 0; block < blocks; ++block)
        add_taps_gradient<S>(l, d, expanded.rows(), block, oy, taps_gradients.at(block, part));
      for (int y = oy * S; y < std::min(oy * S + S, l.height); ++y) {
        const Activations producer = {expanded.raw(y), layers.norm, true};
        for (int block = 0; block < blocks; ++block) {
          for (int lane = 0; lane < LANES; lane += REGISTER_LANES) {
            const BackwardEpilogue<Register> epilogue(producer, block, lane);
            float *out = tile.row(block) + lane, *kept = sums.at(part, blocks, block) + lane;
            GradientSums<Register> total;
            total.read(kept);
            input_gradient_row<S>(l, d, block, Taps(taps.data() + block * TAPS * LANES, lane), y, lane,
                                  [&](int column, Register g) {
                                    store(out + static_cast<size_t>(column) * LANES, epilogue(g, column, total));
                                  });
            total.write(kept);
          }
        }
        tile.add_row();
        if (tile.is_full()) finish_tile();
      }
    }
    if (tile.count() > 0) finish_tile();
  });
}

// The gradients of the weights and of the input from the sums over the whole batch.
class CompletedGradients {
 public:
  // `beta`, `b`: the gradient of the normalisation's shift, and the coefficient of y in that of its input.
  CompletedGradients(const ExpandDepthwise &layers, const std::vector<float> &pivots, const InputSums &input_sums,
                     bool batch_statistics, const float *beta, const float *b)
      : l_(layers.expand),
        pivots_(pivots),
        totals_(input_sums.total()),
        row_(input_sums.row),
        a_(layers.norm.scale),
        beta_(beta),
        b_(b),
        batch_statistics_(batch_statistics) {}

  void weight_gradient(float *out) const {
    const int k = l_.in_channels;
    parallel(l_.out_blocks(), [&](int block) {
      for (int o = block * LANES; o < std::min(l_.out_channels, (block + 1) * LANES); ++o) {
        for (int i = 0; i < k; ++i) {
          double slope = 0.0;
          for (int j = 0; j < k; ++j) slope += weight(o, j) * covariance(j, i);
          out[o * k + i] = static_cast<float>(a_[o] * (product(i, o) + pivots_[i] * static_cast<double>(beta_[o])) +
                                              b_[o] * slope + c(o) * (sum(i) + pixels() * pivots_[i]));
        }
      }
    });
  }

  // Adds what is missing to the input's gradient, which then goes through the producer's activation into its sums.
  void add_to(BlockedTensor gradient, const ExpandDepthwise &layers, const Activations &producer,
              PartialSums &sums) const {
    const int k = l_.in_channels, k_blocks = l_.in_blocks();
    std::vector<float> matrix(static_cast<size_t>(k) * k), constants(static_cast<size_t>(k_blocks) * LANES);
    parallel(k, [&](int i) {
      double constant = 0.0;
      for (int o = 0; o < l_.out_channels; ++o) constant += weight(o, i) * c(o);
      for (int j = 0; j < k; ++j) {
        double slope = 0.0;
        for (int o = 0; o < l_.out_channels; ++o) slope += weight(o, i) * b_[o] * weight(o, j);
        matrix[i * k + j] = static_cast<float>(slope);
        constant -= slope * sum(j) / pixels();
      }
      constants[i] = static_cast<float>(constant);
    });
    float *panels = shared_scratch(ScratchSlot::kernel, static_cast<size_t>(k) * k_blocks * LANES);
    pack_panels(matrix.data(), k, 1, k, k, panels);
    const PixelParts split(l_.in_pixels(), MIN_TASKS);
    sums.prepare(split.parts, k_blocks);
    parallel(split.parts, [&](int part) {
      float *x = thread_scratch(static_cast<size_t>(k_blocks) * MAX_TILE * LANES);
      split.for_tiles(part, [&](size_t first, int count, int, bool first_tile) {
        load_centred(layers, pivots_, first, count, MAX_TILE, x);
        gemm(x, MAX_TILE, count, panels, k, k_blocks, [&](int pixel, int block, const auto &column) {
          const float *constant = constants.data() + block * LANES;
          const BackwardEpilogue<Vec> epilogue(producer, block);
          float *kept = sums.at(part, k_blocks, block);
          GradientSums<Vec> total;
          if (!first_tile || pixel != 0) total.read(kept);
          const size_t start = first + pixel;
#pragma GCC unroll 24
          for (int r = 0; r < column.ROWS; ++r) {
            if (pixel + r >= count) break;
            float *g = gradient.at(block, start + r);
            store(g, epilogue(load(g) + (column.at[r] + load(constant)), start + r, total));
          }
          total.write(kept);
        });
      });
    });
  }

 private:
  double weight(int o, int i) const { return l_.weight[static_cast<size_t>(o) * l_.in_channels + i]; }
  double pixels() const { return static_cast<double>(l_.in_pixels()); }
  double product(int i, int o) const { return totals_[i * row_ + o]; }
  double sum(int i) const { return totals_[l_.in_blocks() * LANES * row_ + i]; }
  double covariance(int i, int j) const {
    return totals_[i * row_ + l_.out_blocks() * LANES + j] - sum(i) * sum(j) / pixels();
  }
  double c(int o) const { return batch_statistics_ ? -static_cast<double>(a_[o]) * beta_[o] / pixels() : 0.0; }

  const Layer &l_;
  const std::vector<float> &pivots_;
  std::vector<double> totals_;
  size_t row_;
  const float *a_, *beta_, *b_;
  bool batch_statistics_;
};

}  // namespace

// Beyond 16 input channels, computing a row takes longer than storing and loading it. Rows are taken in an order that
// fits windows which begin before the first pixel: networks of TensorFlow's convention do without.
bool is_recomputed(const Layer &expand, const Layer &l) {
  return expand.kind == Kind::pointwise && l.kind == Kind::depthwise && expand.activation && expand.shortcut < 0 &&
         l.first_row == 0 && l.first_column == 0 && expand.in_channels <= 16 &&
         expand.out_channels >= 4 * expand.in_channels;
}

void expand_depthwise_forward(const ExpandDepthwise &layers, BlockedTensor y, PartialSums &moments) {
  (layers.depthwise.stride == 1 ? forward_planes<1> : forward_planes<2>)(layers, y, moments);
}

void expand_depthwise_backward(const ExpandDepthwise &layers, const RawGradient &gradient, bool batch_statistics,
                               const Activations &producer, ConstBlockedTensor shortcut_gradient,
                               const ExpandDepthwiseGradients &gradients, BlockedTensor input_gradient,
                               PartialSums &sums) {
  const Layer &expand = layers.expand, &l = layers.depthwise;
  const Planes planes(l, 1);
  const size_t panel_floats = (static_cast<size_t>(expand.in_channels) * l.out_blocks() +
                               static_cast<size_t>(expand.out_channels) * expand.in_blocks()) *
                              LANES;
  float *memory = shared_scratch(ScratchSlot::kernel, panel_floats + TapsGradients::floats(l, planes.parts));
  const TapsGradients taps_gradients(memory + panel_floats, planes.parts);
  const std::vector<float> pivots = pivots_of(expand, layers.value);
  InputSums input_sums(expand, planes.parts);
  (l.stride == 1 ? backward_planes<1> : backward_planes<2>)(layers, gradient, pivots, planes, shortcut_gradient,
                                                            taps_gradients, input_gradient, sums, input_sums, memory);
  taps_gradients.sum(l, gradients.depthwise_weight);
  const size_t channels = static_cast<size_t>(l.out_blocks()) * LANES;
  std::vector<float> coefficients(3 * channels);
  float *a = coefficients.data(), *b = a + channels, *c = b + channels;
  batch_norm_backward(expand, sums, layers.norm, batch_statistics, gradients.gamma, gradients.beta, a, b, c);
  const CompletedGradients completed(layers, pivots, input_sums, batch_statistics, gradients.beta, b);
  completed.weight_gradient(gradients.expand_weight);
  if (input_gradient) completed.add_to(input_gradient, layers, producer, sums);
}
