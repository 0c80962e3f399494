// How kernels read: tensors through their normalisation, patches, weights in panels.
#pragma once

#include <algorithm>
#include <cstring>

#include "layers.h"
#include "product.h"

inline void load_value(const View &view, int block, size_t first, size_t stride, size_t count, float *out) {
  const float *in = view.data + (block * stride + first) * LANES;
  if (view.norm == nullptr) {
    std::memcpy(out, in, count * LANES * sizeof(float));
    return;
  }
  const Vec scale = load(view.norm->scale + block * LANES), shift = load(view.norm->shift + block * LANES);
  if (view.activation) {
    for (size_t i = 0; i < count * LANES; i += LANES) store(out + i, relu6(load(in + i) * scale + shift));
  } else {
    for (size_t i = 0; i < count * LANES; i += LANES) store(out + i, load(in + i) * scale + shift);
  }
}

inline void load_gradient(const RawGradient &gradient, int block, size_t first, size_t stride, size_t count,
                          float *out) {
  const float *g = gradient.g + (block * stride + first) * LANES, *y = gradient.y + (block * stride + first) * LANES;
  const Vec a = load(gradient.a + block * LANES), b = load(gradient.b + block * LANES);
  const Vec c = load(gradient.c + block * LANES);
  for (size_t i = 0; i < count * LANES; i += LANES) store(out + i, a * load(g + i) + (b * load(y + i) + c));
}

// The 3x3 patches around output pixels first ... first + count as a tile of 9 * C channels: the full convolution is
// then a 1x1 convolution.
inline void load_patches(const Layer &l, const float *image, size_t first, int count, int tile, float *out) {
  const size_t plane = static_cast<size_t>(l.height) * l.width;
  const size_t out_plane = static_cast<size_t>(l.out_height) * l.out_width;
  for (int t = 0; t < count; ++t) {
    const size_t picture = (first + t) / out_plane, pixel = (first + t) % out_plane;
    const int y0 = static_cast<int>(pixel / l.out_width) * l.stride - 1;
    const int x0 = static_cast<int>(pixel % l.out_width) * l.stride - 1;
    const float *in = image + picture * l.in_channels * plane;
    int k = 0;
    for (int c = 0; c < l.in_channels; ++c) {
      for (int y = y0; y < y0 + 3; ++y) {
        for (int x = x0; x < x0 + 3; ++x, ++k) {
          const bool inside = y >= 0 && y < l.height && x >= 0 && x < l.width;
          out[(static_cast<size_t>(k / LANES) * tile + t) * LANES + k % LANES] =
              inside ? in[c * plane + static_cast<size_t>(y) * l.width + x] : 0.0f;
        }
      }
    }
  }
}

// The layer's input at output pixels first ... first + count - 1 as a tile.
inline void load_input(const Layer &l, const View &value, const float *image, size_t first, int count, int tile,
                       float *out) {
  if (l.kind == Kind::full) {
    load_patches(l, image, first, count, tile, out);
    return;
  }
  for (int b = 0; b < l.in_blocks(); ++b)
    load_value(value, b, first, l.in_pixels(), count, out + static_cast<size_t>(b) * tile * LANES);
}

// Panels of weight(row k, output channel); `row` and `column` are its strides.
inline void pack_panels(const float *weight, int k, size_t row_stride, int channels, size_t column_stride, float *out) {
  for_panels(blocks_of(channels), [&](auto width, int first) {
    constexpr int N = decltype(width)::value * LANES;
    float *panel = out + static_cast<size_t>(first) * LANES * k;
    const int start = first * LANES;
    for (int j = 0; j < N; ++j) {
      const float *in = weight + (start + j) * column_stride;
      const bool inside = start + j < channels;
      for (int i = 0; i < k; ++i) panel[static_cast<size_t>(i) * N + j] = inside ? in[i * row_stride] : 0.0f;
    }
  });
}
