// Tiles of a convolution's input, as gemm.h reads them.
#pragma once

#include "batch_norm.h"
#include "gemm.h"

// The 3x3 patches around output pixels first ... first + count - 1 as a tile of 9 * C channels: the dense convolution
// is then a 1x1 convolution.
inline void im2col(const Layer &l, const float *image, size_t first, int count, int tile, float *out) {
  const auto at = [&](int k, int t) { return out + (static_cast<size_t>(k / LANES) * tile + t) * LANES + k % LANES; };
  size_t index = first / l.out_plane();
  int row = static_cast<int>(first % l.out_plane()) / l.out_width, column = static_cast<int>(first % l.out_width);
  for (int t = 0; t < count; ++t) {
    const int y0 = l.first_row + row * l.stride - 1, x0 = l.first_column + column * l.stride - 1;
    const bool inside = y0 >= 0 && y0 + 3 <= l.height && x0 >= 0 && x0 + 3 <= l.width;
    const float *in = image + index * l.in_channels * l.in_plane();
    int k = 0;
    for (int c = 0; c < l.in_channels; ++c, in += l.in_plane()) {
      for (int y = y0; y < y0 + 3; ++y, k += 3) {
        const float *from = in + static_cast<ptrdiff_t>(y) * l.width + x0;
        if (inside && k % LANES <= LANES - 3) {
          std::memcpy(at(k, t), from, 3 * sizeof(float));
          continue;
        }
        for (int x = 0; x < 3; ++x)
          *at(k + x, t) = y >= 0 && y < l.height && x0 + x >= 0 && x0 + x < l.width ? from[x] : 0.0f;
      }
    }
    if (++column < l.out_width) continue;
    column = 0;
    if (++row < l.out_height) continue;
    row = 0;
    ++index;
  }
}

// Blocks first_block ... last_block - 1 of the layer's input at output pixels first ... first + count - 1 as a tile.
inline void load_input(const Layer &l, const Activations &value, const float *image, int first_block, int last_block,
                       size_t first, int count, int tile, float *out) {
  if (l.kind == Kind::dense) {
    im2col(l, image, first, count, tile, out);
    return;
  }
  for (int b = first_block; b < last_block; ++b, out += static_cast<size_t>(tile) * LANES)
    load_value(value, b, first, count, out);
}
