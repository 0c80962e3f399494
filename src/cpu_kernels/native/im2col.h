// Tiles of a convolution's input, as gemm.h reads them.
#pragma once

#include "batch_norm.h"
#include "gemm.h"

// The 3x3 patches around output pixels first ... first + count - 1 as a tile of 9 * C channels: the dense convolution
// is then a 1x1 convolution.
inline void im2col(const Layer &l, const float *image, size_t first, int count, int tile, float *out) {
  for (int t = 0; t < count; ++t) {
    const size_t index = (first + t) / l.out_plane(), pixel = (first + t) % l.out_plane();
    const int y0 = static_cast<int>(pixel / l.out_width) * l.stride - 1;
    const int x0 = static_cast<int>(pixel % l.out_width) * l.stride - 1;
    const bool inside = y0 >= 0 && y0 + 3 <= l.height && x0 >= 0 && x0 + 3 <= l.width;
    const float *in = image + index * l.in_channels * l.in_plane();
    int k = 0;
    for (int c = 0; c < l.in_channels; ++c, in += l.in_plane()) {
      for (int y = y0; y < y0 + 3; ++y) {
        for (int x = x0; x < x0 + 3; ++x, ++k) {
          const bool read = inside || (y >= 0 && y < l.height && x >= 0 && x < l.width);
          out[(static_cast<size_t>(k / LANES) * tile + t) * LANES + k % LANES] =
              read ? in[static_cast<size_t>(y) * l.width + x] : 0.0f;
        }
      }
    }
  }
}

// Blocks first_block ... last_block - 1 of the layer's input at output pixels first ... first + count - 1 as a tile.
inline void load_input(const Layer &l, const Blocked &value, const float *image, int first_block, int last_block,
                       size_t first, int count, int tile, float *out) {
  if (l.kind == Kind::dense) {
    im2col(l, image, first, count, tile, out);
    return;
  }
  for (int b = first_block; b < last_block; ++b, out += static_cast<size_t>(tile) * LANES)
    load_value(value, b, first, l.in_pixels(), count, out);
}
