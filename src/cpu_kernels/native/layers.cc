#include "layers.h"

#include <algorithm>
#include <cstring>

#include "depthwise.h"
#include "loads.h"
#include "product.h"
#include "threads.h"

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Parts of a tensor and the sums over them
// ---------------------------------------------------------------------------------------------------------------------

// Pixels cut into tiles, tiles dealt to parts; both depend on the sizes alone.
struct Split {
  size_t pixels;
  int tile, tiles, parts;

  Split(size_t pixels, int most_parts) : pixels(pixels) {
    const size_t eighth = (pixels / 8 + 23) / 24 * 24;
    tile = static_cast<int>(std::clamp<size_t>(eighth, 24, MAX_TILE));
    tiles = static_cast<int>((pixels + tile - 1) / tile);
    parts = std::min(tiles, most_parts);
  }
  int first_tile(int part) const { return static_cast<int>(static_cast<long>(tiles) * part / parts); }
  int pixels_of_part(int part) const {
    return static_cast<int>(std::min(pixels, static_cast<size_t>(first_tile(part + 1)) * tile) -
                            static_cast<size_t>(first_tile(part)) * tile);
  }
  // f(first pixel, pixels, whether it is the part's first) for every tile of the part.
  template <class F> void for_tiles(int part, F &&f) const {
    for (int t = first_tile(part); t < first_tile(part + 1); ++t) {
      const size_t first = static_cast<size_t>(t) * tile;
      f(first, static_cast<int>(std::min<size_t>(tile, pixels - first)), t == first_tile(part));
    }
  }
};

constexpr int FORWARD_PARTS = 32;
constexpr int BACKWARD_PARTS = 8;  // each has a gradient of all weights of its own

void prepare(Parts &parts, int count, int blocks) {
  parts.pixels.resize(count);
  parts.data.resize(static_cast<size_t>(count) * blocks * Parts::SUMS * LANES);
}

void prepare(Parts &parts, const Split &split, int blocks) {
  prepare(parts, split.parts, blocks);
  for (int i = 0; i < split.parts; ++i) parts.pixels[i] = split.pixels_of_part(i);
}

float *sums_of(Parts &parts, int part, int blocks, int block) {
  return parts.data.data() + (static_cast<size_t>(part) * blocks + block) * Parts::SUMS * LANES;
}

// The running sums of one channel block.
struct Moments {
  Vec pivot = {}, sum = {}, squares = {};
  // Infinity minus infinity would be no number: from there on values are summed as they are.
  void set_pivot(Vec y) { pivot = y - y == 0.0f ? y : Vec{}; }
  void add(Vec y) {
    const Vec d = y - pivot;
    sum += d;
    squares += d * d;
  }
  void keep(float *p) const {
    store(p, pivot);
    store(p + LANES, sum);
    store(p + 2 * LANES, squares);
  }
};

struct GradientSums {
  Vec sum = {}, products = {};
  void keep(float *p) const {
    store(p, sum);
    store(p + LANES, products);
  }
};

// What a layer's input gradient goes through on its way to memory, for one channel block.
struct Closing {
  Vec scale = {}, shift = {}, mean = {};
  const float *y = nullptr;
  bool activation = false;

  Closing(const Producer &producer, int block, size_t pixels) {
    if (producer.y == nullptr) return;
    y = producer.y + block * pixels * LANES;
    activation = producer.activation;
    scale = load(producer.norm->scale + block * LANES);
    shift = load(producer.norm->shift + block * LANES);
    mean = load(producer.norm->mean + block * LANES);
  }
  Vec operator()(Vec g, size_t pixel, GradientSums &sums) const {
    if (y == nullptr) return g;
    const Vec raw = load(y + pixel * LANES);
    if (activation) g = relu6_gradient(raw * scale + shift, g);
    sums.sum += g;
    sums.products += g * (raw - mean);
    return g;
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// 1x1 convolutions, and the full 3x3 convolution on patches
// ---------------------------------------------------------------------------------------------------------------------

void matrix_forward(const Layer &l, const View &value, const float *image, float *y, Parts &parts) {
  const Split split(l.out_pixels(), FORWARD_PARTS);
  const int k = l.taps(), k_blocks = blocks_of(k), blocks = l.out_blocks();
  const size_t pixels = split.pixels;
  float *panels = shared_scratch(Purpose::kernel, static_cast<size_t>(k) * blocks * LANES);
  pack_panels(l.weight, k, 1, l.out_channels, k, panels);
  prepare(parts, split, blocks);
  parallel(split.parts, [&](int part) {
    float *tile = thread_scratch(static_cast<size_t>(k_blocks) * split.tile * LANES);
    split.for_tiles(part, [&](size_t first, int count, bool first_tile) {
      load_input(l, value, image, first, count, split.tile, tile);
      product(tile, split.tile, count, panels, k, blocks, [&]<int R, int V>(int row, int vector, Sums<R, V> &sums) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          float *kept = sums_of(parts, part, blocks, vector + v);
          Moments moments;
          if (first_tile && row == 0) {
            moments.set_pivot(sums.at[0][v]);
          } else {
            moments = {load(kept), load(kept + LANES), load(kept + 2 * LANES)};
          }
          float *out = y + ((vector + v) * pixels + first + row) * LANES;
#pragma GCC unroll 24
          for (int r = 0; r < R; ++r) {
            if (row + r >= count) break;
            store(out + r * LANES, sums.at[r][v]);
            moments.add(sums.at[r][v]);
          }
          moments.keep(kept);
        }
      });
    });
  });
}

void matrix_backward(const Layer &l, const View &value, const float *image, const RawGradient &gradient,
                     const Producer &producer, const float *shortcut_gradient, float *weight_gradient,
                     float *input_gradient, Parts &parts) {
  const Split split(l.out_pixels(), BACKWARD_PARTS);
  const int k = l.taps(), k_blocks = blocks_of(k), blocks = l.out_blocks(), in_blocks = l.in_blocks();
  const size_t pixels = split.pixels, weights = static_cast<size_t>(k_blocks) * LANES * blocks * LANES;
  float *partial = shared_scratch(Purpose::kernel, weights * (split.parts + 1));
  float *panels = partial + weights * split.parts;
  if (input_gradient != nullptr) pack_panels(l.weight, l.out_channels, k, k, 1, panels);
  prepare(parts, split, in_blocks);
  parallel(split.parts, [&](int part) {
    const size_t tile_block = static_cast<size_t>(split.tile) * LANES;
    float *x = thread_scratch((k_blocks + blocks) * tile_block), *d = x + k_blocks * tile_block;
    split.for_tiles(part, [&](size_t first, int count, bool first_tile) {
      for (int b = 0; b < blocks; ++b) load_gradient(gradient, b, first, pixels, count, d + b * tile_block);
      load_input(l, value, image, first, count, split.tile, x);
      add_weight_gradient(x, d, split.tile, count, k, blocks, partial + weights * part, first_tile);
      if (input_gradient == nullptr) return;
      product(d, split.tile, count, panels, l.out_channels, in_blocks,
              [&]<int R, int V>(int row, int vector, Sums<R, V> &sums) {
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) {
                  const Closing close(producer, vector + v, pixels);
                  float *kept = sums_of(parts, part, in_blocks, vector + v);
                  GradientSums total;
                  if (!first_tile || row != 0) total = {load(kept), load(kept + LANES)};
                  const size_t start = (vector + v) * pixels + first + row;
#pragma GCC unroll 24
                  for (int r = 0; r < R; ++r) {
                    if (row + r >= count) break;
                    Vec g = sums.at[r][v];
                    if (shortcut_gradient != nullptr) g += load(shortcut_gradient + (start + r) * LANES);
                    store(input_gradient + (start + r) * LANES, close(g, first + row + r, total));
                  }
                  total.keep(kept);
                }
              });
    });
  });
  parallel(blocks, [&](int block) {
    const int channels = std::min(LANES, l.out_channels - block * LANES);
    for (int i = 0; i < k; ++i) {
      Vec total = {};
      for (int part = 0; part < split.parts; ++part)
        total += load(partial + weights * part + (static_cast<size_t>(i) * blocks + block) * LANES);
      for (int j = 0; j < channels; ++j) weight_gradient[static_cast<size_t>(block * LANES + j) * k + i] = total[j];
    }
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Depthwise 3x3 convolutions: one task is one picture's plane of sixteen channels
// ---------------------------------------------------------------------------------------------------------------------

template <int S> void depthwise_forward(const Layer &l, const View &value, float *y, Parts &parts) {
  const int blocks = l.out_blocks();
  prepare(parts, l.pictures, blocks);
  std::fill(parts.pixels.begin(), parts.pixels.end(), l.out_height * l.out_width);
  parallel(l.pictures * blocks, [&](int task) {
    const int block = task / l.pictures, picture = task % l.pictures;
    Vec w[9];
    load_taps(l, block, w);
    float *out = y + (block * l.out_pixels() + static_cast<size_t>(picture) * l.out_height * l.out_width) * LANES;
    Moments moments;
    depthwise_plane<S>(
        l, w, 0, l.out_height, thread_scratch(Rows::floats(l.width)),
        [&](int row, float *to) {
          const size_t first = (static_cast<size_t>(picture) * l.height + row) * l.width;
          load_value(value, block, first, l.in_pixels(), l.width, to);
        },
        [&](int oy, int ox, Vec sum) {
          if (oy == 0 && ox == 0) moments.set_pivot(sum);
          moments.add(sum);
          store(out, sum);
          out += LANES;
        });
    moments.keep(sums_of(parts, picture, blocks, block));
  });
}

// The input row y from the rows of the raw gradient d: every output that saw the input, with the weight it used.
template <int S, class Finish>
inline void depthwise_input_row(const Layer &l, const Rows &d, const Vec (&w)[9], int y, Finish &&finish) {
  if constexpr (S == 1) {
    const float *above = d.row(y - 1), *here = d.row(y), *below = d.row(y + 1);
    for (int x = 0; x < l.width; ++x) {
      const int i = (x - 1) * LANES;
      const Vec s0 = w[8] * load(above + i) + w[7] * load(above + i + LANES) + w[6] * load(above + i + 2 * LANES);
      const Vec s1 = w[5] * load(here + i) + w[4] * load(here + i + LANES) + w[3] * load(here + i + 2 * LANES);
      const Vec s2 = w[2] * load(below + i) + w[1] * load(below + i + LANES) + w[0] * load(below + i + 2 * LANES);
      finish(x, s0 + s1 + s2);
    }
  } else {
    // An even row was seen by the middle row of one window, an odd one by the last of one and the first of the next.
    const bool odd = y % 2 != 0;
    const float *one = d.row(y / 2), *two = odd ? d.row(y / 2 + 1) : nullptr;
    const Vec *wa = odd ? w + 6 : w + 3;
    for (int x = 0; x < l.width; ++x) {
      const int i = x / 2 * LANES;
      Vec sum;
      if (x % 2 == 0) {
        sum = wa[1] * load(one + i);
        if (odd) sum += w[1] * load(two + i);
      } else {
        sum = wa[2] * load(one + i) + wa[0] * load(one + i + LANES);
        if (odd) sum += w[2] * load(two + i) + w[0] * load(two + i + LANES);
      }
      finish(x, sum);
    }
  }
}

template <int S>
void depthwise_backward(const Layer &l, const View &value, const RawGradient &gradient, const Producer &producer,
                        const float *shortcut_gradient, float *weight_gradient, float *input_gradient, Parts &parts) {
  const int blocks = l.out_blocks();
  float *partial = shared_scratch(Purpose::kernel, static_cast<size_t>(l.pictures) * blocks * 9 * LANES);
  prepare(parts, l.pictures, blocks);
  std::fill(parts.pixels.begin(), parts.pixels.end(), l.height * l.width);
  parallel(l.pictures * blocks, [&](int task) {
    const int block = task / l.pictures, picture = task % l.pictures;
    const size_t first_in = static_cast<size_t>(picture) * l.height * l.width;
    const size_t first_out = static_cast<size_t>(picture) * l.out_height * l.out_width;
    float *memory = thread_scratch(Rows::floats(l.width) + Rows::floats(l.out_width));
    Rows x(memory, l.height, l.width), d(memory + Rows::floats(l.width), l.out_height, l.out_width);
    Vec w[9], dw[9] = {};
    load_taps(l, block, w);
    const Closing close(producer, block, l.in_pixels());
    GradientSums total;
    int x_loaded = 0, d_loaded = 0;
    for (int oy = 0; oy < l.out_height; ++oy) {
      for (; d_loaded < std::min(oy + 2, l.out_height); ++d_loaded)
        load_gradient(gradient, block, first_out + static_cast<size_t>(d_loaded) * l.out_width, l.out_pixels(),
                      l.out_width, d.place(d_loaded));
      for (; x_loaded < std::min(oy * S + 2, l.height); ++x_loaded)
        load_value(value, block, first_in + static_cast<size_t>(x_loaded) * l.width, l.in_pixels(), l.width,
                   x.place(x_loaded));
      const float *g = d.row(oy), *r0 = x.row(oy * S - 1), *r1 = x.row(oy * S), *r2 = x.row(oy * S + 1);
      for (int ox = 0; ox < l.out_width; ++ox) {
        const Vec v = load(g + ox * LANES);
        const int i = (ox * S - 1) * LANES;
#pragma GCC unroll 3
        for (int t = 0; t < 3; ++t) {
          dw[t] += v * load(r0 + i + t * LANES);
          dw[3 + t] += v * load(r1 + i + t * LANES);
          dw[6 + t] += v * load(r2 + i + t * LANES);
        }
      }
      if (input_gradient == nullptr) continue;
      for (int y = oy * S; y < std::min(oy * S + S, l.height); ++y) {
        const size_t row = first_in + static_cast<size_t>(y) * l.width, start = block * l.in_pixels() + row;
        depthwise_input_row<S>(l, d, w, y, [&](int column, Vec sum) {
          if (shortcut_gradient != nullptr) sum += load(shortcut_gradient + (start + column) * LANES);
          store(input_gradient + (start + column) * LANES, close(sum, row + column, total));
        });
      }
    }
    total.keep(sums_of(parts, picture, blocks, block));
    float *sums = partial + (static_cast<size_t>(picture) * blocks + block) * 9 * LANES;
    for (int t = 0; t < 9; ++t) store(sums + t * LANES, dw[t]);
  });
  for (int block = 0; block < blocks; ++block) {
    for (int t = 0; t < 9; ++t) {
      Vec total = {};
      for (int picture = 0; picture < l.pictures; ++picture)
        total += load(partial + ((static_cast<size_t>(picture) * blocks + block) * 9 + t) * LANES);
      for (int j = 0; j < std::min(LANES, l.out_channels - block * LANES); ++j)
        weight_gradient[(block * LANES + j) * 9 + t] = total[j];
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Passes over whole tensors
// ---------------------------------------------------------------------------------------------------------------------

// f(block, first pixel, pixels) in parallel, a few thousand pixels at a time.
template <class F> void for_stretches(int blocks, size_t pixels, F &&f) {
  constexpr size_t STRETCH = 2048;
  const int parts = static_cast<int>((pixels + STRETCH - 1) / STRETCH);
  parallel(blocks * parts, [&](int task) {
    const size_t first = task % parts * STRETCH;
    f(task / parts, first, std::min(STRETCH, pixels - first));
  });
}

}  // namespace

void forward(const Layer &l, const View &value, const float *image, float *y, Parts &parts) {
  if (l.kind != Kind::depthwise) {
    matrix_forward(l, value, image, y, parts);
  } else if (l.stride == 1) {
    depthwise_forward<1>(l, value, y, parts);
  } else {
    depthwise_forward<2>(l, value, y, parts);
  }
}

void backward(const Layer &l, const View &value, const float *image, const RawGradient &gradient,
              const Producer &producer, const float *shortcut_gradient, float *weight_gradient, float *input_gradient,
              Parts &parts) {
  if (l.kind != Kind::depthwise) {
    matrix_backward(l, value, image, gradient, producer, shortcut_gradient, weight_gradient, input_gradient, parts);
  } else if (l.stride == 1) {
    depthwise_backward<1>(l, value, gradient, producer, shortcut_gradient, weight_gradient, input_gradient, parts);
  } else {
    depthwise_backward<2>(l, value, gradient, producer, shortcut_gradient, weight_gradient, input_gradient, parts);
  }
}

void image_gradient(const Layer &l, const RawGradient &gradient, float *out) {
  const int k = l.taps();
  const size_t plane = static_cast<size_t>(l.height) * l.width;
  const size_t out_plane = static_cast<size_t>(l.out_height) * l.out_width;
  parallel(l.pictures, [&](int picture) {
    float *image = out + picture * l.in_channels * plane;
    std::fill_n(image, l.in_channels * plane, 0.0f);
    float *d = thread_scratch(l.out_blocks() * LANES);
    for (size_t pixel = 0; pixel < out_plane; ++pixel) {
      const int y0 = static_cast<int>(pixel / l.out_width) * l.stride - 1;
      const int x0 = static_cast<int>(pixel % l.out_width) * l.stride - 1;
      for (int b = 0; b < l.out_blocks(); ++b)
        load_gradient(gradient, b, picture * out_plane + pixel, l.out_pixels(), 1, d + b * LANES);
      for (int i = 0; i < k; ++i) {
        const int y = y0 + i % 9 / 3, x = x0 + i % 3;
        if (y < 0 || y >= l.height || x < 0 || x >= l.width) continue;
        float sum = 0.0f;
        for (int c = 0; c < l.out_channels; ++c) sum += d[c] * l.weight[static_cast<size_t>(c) * k + i];
        image[i / 9 * plane + static_cast<size_t>(y) * l.width + x] += sum;
      }
    }
  });
}

void to_blocks(const float *plain, int pictures, int channels, size_t plane, float *blocked) {
  const int blocks = blocks_of(channels);
  parallel(pictures * blocks, [&](int task) {
    const int block = task / pictures, picture = task % pictures, lanes = std::min(LANES, channels - block * LANES);
    const float *in = plain + (static_cast<size_t>(picture) * channels + block * LANES) * plane;
    float *out = blocked + (static_cast<size_t>(block) * pictures + picture) * plane * LANES;
    for (size_t p = 0; p < plane; ++p)
      for (int j = 0; j < LANES; ++j) out[p * LANES + j] = j < lanes ? in[j * plane + p] : 0.0f;
  });
}

void from_blocks(const View &value, int pictures, int channels, size_t plane, float *plain) {
  const int blocks = blocks_of(channels);
  parallel(pictures * blocks, [&](int task) {
    const int block = task / pictures, picture = task % pictures, lanes = std::min(LANES, channels - block * LANES);
    float *in = thread_scratch(plane * LANES);
    load_value(value, block, picture * plane, pictures * plane, plane, in);
    float *out = plain + (static_cast<size_t>(picture) * channels + block * LANES) * plane;
    for (int j = 0; j < lanes; ++j)
      for (size_t p = 0; p < plane; ++p) out[j * plane + p] = in[p * LANES + j];
  });
}

void add(const View &value, const View &shortcut, int blocks, size_t pixels, float *out) {
  for_stretches(blocks, pixels, [&](int block, size_t first, size_t count) {
    float *sum = out + (block * pixels + first) * LANES, *other = thread_scratch(count * LANES);
    load_value(value, block, first, pixels, count, sum);
    load_value(shortcut, block, first, pixels, count, other);
    for (size_t i = 0; i < count * LANES; i += LANES) store(sum + i, load(sum + i) + load(other + i));
  });
}

void close_activation(const Layer &l, const Producer &producer, float *gradient, Parts &parts) {
  const int blocks = l.out_blocks();
  const Split split(l.out_pixels(), FORWARD_PARTS);
  prepare(parts, split, blocks);
  parallel(split.parts, [&](int part) {
    const size_t first = static_cast<size_t>(split.first_tile(part)) * split.tile;
    for (int block = 0; block < blocks; ++block) {
      const Closing close(producer, block, split.pixels);
      GradientSums total;
      for (size_t p = first; p < first + parts.pixels[part]; ++p) {
        float *g = gradient + (block * split.pixels + p) * LANES;
        store(g, close(load(g), p, total));
      }
      total.keep(sums_of(parts, part, blocks, block));
    }
  });
}
