// Tiles of a convolution's input, as gemm.h reads them.
#pragma once

#include "batch_norm.h"
#include "gemm.h"

// Channels k, k + 1 and k + 2 of a tile: three neighbours in row y of a channel's plane, from column x on for the first
// of some pixels of an output row.
inline void im2col_row(const Layer &l, const float *plane, int y, int x, int pixels, int k, int tile, float *out) {
  const auto at = [&](int channel) {
    return out + (static_cast<size_t>(channel / LANES) * tile) * LANES + channel % LANES;
  };
  float *const to[3] = {at(k), at(k + 1), at(k + 2)};
  const bool row_inside = y >= 0 && y < l.height, adjacent = k % LANES <= LANES - 3;
  const float *in = plane + static_cast<ptrdiff_t>(y) * l.width;
  const auto copy_each = [&](int pixel) {
    for (int i = 0; i < 3; ++i) {
      const int column = x + pixel * l.stride + i;
      to[i][pixel * LANES] = row_inside && column >= 0 && column < l.width ? in[column] : 0.0f;
    }
  };
  int pixel = 0;
  if (row_inside && adjacent) {
    if (x < 0) copy_each(pixel++);
    for (; pixel < pixels && x + pixel * l.stride + 3 <= l.width; ++pixel)
      std::memcpy(to[0] + pixel * LANES, in + x + pixel * l.stride, 3 * sizeof(float));
  }
  for (; pixel < pixels; ++pixel) copy_each(pixel);
}

// The 3x3 patches around output pixels first ... first + count - 1 as a tile of 9 * C channels: the dense convolution
// is then a 1x1 convolution.
inline void im2col(const Layer &l, const float *image, size_t first, int count, int tile, float *out) {
  const size_t index = first / l.out_plane();
  const float *in = image + index * l.in_channels * l.in_plane();
  int row = static_cast<int>(first % l.out_plane()) / l.out_width, column = static_cast<int>(first % l.out_width);
  // As far as an output row reaches at a time: its pixels differ in nothing but where they start.
  for (int done = 0; done < count; column = 0) {
    const int pixels = std::min(count - done, l.out_width - column);
    const int y0 = l.first_row + row * l.stride - 1, x0 = l.first_column + column * l.stride - 1;
    for (int k = 0; k < l.taps(); k += 3)
      im2col_row(l, in + k / 9 * l.in_plane(), y0 + k % 9 / 3, x0, pixels, k, tile,
                 out + static_cast<size_t>(done) * LANES);
    done += pixels;
    if (++row < l.out_height) continue;
    row = 0;
    in += l.in_channels * l.in_plane();
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
