// 1x1 convolutions, and the dense 3x3 convolution behind im2col, as matrix products (GEMM). A task is a part of the
// pixels times a group of output channels (forward) or input channels (backward).
#include <algorithm>

#include "conv.h"
#include "im2col.h"
#include "prefetch.h"
#include "tasks.h"
#include "thread_pool.h"
#include "workspace.h"

namespace {

constexpr int FORWARD_PARTS = 64;
// Each part has a gradient of all weights of its own: 8 parts, or more while these are small.
constexpr size_t PARTIAL_FLOATS = size_t{1} << 20;
constexpr int MIN_BACKWARD_PARTS = 8, MAX_BACKWARD_PARTS = 32;

int backward_parts(size_t weights) {
  return static_cast<int>(std::clamp<size_t>(PARTIAL_FLOATS / weights, MIN_BACKWARD_PARTS, MAX_BACKWARD_PARTS));
}

}  // namespace

void gemm_forward(const Layer &l, const Activations &value, const float *image, BlockedTensor y, PartialSums &moments) {
  const PixelParts split(l.out_pixels(), FORWARD_PARTS);
  const int k = l.taps(), k_blocks = blocks_of(k), blocks = l.out_blocks();
  const ChannelGroups groups(blocks, split.parts);
  float *panels = shared_scratch(ScratchSlot::kernel, static_cast<size_t>(k) * blocks * LANES);
  pack_panels(l.weight, k, 1, l.out_channels, k, panels);
  moments.prepare(split.parts, blocks);
  for (int i = 0; i < split.parts; ++i) moments.pixels[i] = split.pixels_of(i);
  parallel(split.parts * groups.groups, [&](int task) {
    const int part = task / groups.groups, group = task % groups.groups;
    const int first_block = groups.first(group), last_block = groups.first(group + 1);
    const float *group_panels = panels + static_cast<size_t>(first_block) * LANES * k;
    const size_t tile_floats = static_cast<size_t>(k_blocks) * MAX_TILE * LANES;
    float *tile = thread_scratch(tile_floats + LARGEST_MR * LANES), *dropped = tile + tile_floats;
    split.for_tiles(part, [&](size_t first, int count, int next_count, bool first_tile) {
      load_input(l, value, image, 0, k_blocks, first, count, MAX_TILE, tile);
      Prefetcher prefetcher;
      if (l.kind == Kind::pointwise) prefetcher.add(value.raw.from(0, first + count), k_blocks, next_count);
      prefetcher.start(gemm_steps(count, k, last_block - first_block));
      gemm(
          tile, MAX_TILE, count, group_panels, k, last_block - first_block,
          [&](int row, int vector, const auto &column) {
            const int block = first_block + vector;
            float *kept = moments.at(part, blocks, block);
            Moments<Vec> total;
            if (first_tile && row == 0) {
              total.set_pivot(column.at[0]);
            } else {
              total.read(kept);
            }
            float *out = y ? y.at(block, first + row) : dropped;
#pragma GCC unroll 24
            for (int r = 0; r < column.ROWS; ++r) {
              if (row + r >= count) break;
              store(out + r * LANES, column.at[r]);
              total.add(column.at[r]);
            }
            total.write(kept);
          },
          [&] { prefetcher.step(); });
    });
  });
}

void gemm_backward(const Layer &l, const Activations &value, const float *image, const RawGradient &gradient,
                   const Activations &producer, ConstBlockedTensor shortcut_gradient, float *weight_gradient,
                   BlockedTensor input_gradient, PartialSums &sums) {
  const int k = l.taps(), k_blocks = blocks_of(k), blocks = l.out_blocks();
  const size_t row = static_cast<size_t>(blocks) * LANES, weights = k_blocks * LANES * row;
  const PixelParts split(l.out_pixels(), backward_parts(weights));
  const ChannelGroups groups(k_blocks, split.parts, l.kind == Kind::dense ? 1 : MIN_TASKS);
  float *partial = shared_scratch(ScratchSlot::kernel, weights * (split.parts + 1));
  float *panels = partial + weights * split.parts;
  if (input_gradient) pack_panels(l.weight, l.out_channels, k, k, 1, panels);
  sums.prepare(split.parts, k_blocks);
  for (int i = 0; i < split.parts; ++i) sums.pixels[i] = split.pixels_of(i);
  parallel(split.parts * groups.groups, [&](int task) {
    const int part = task / groups.groups, group = task % groups.groups;
    const int first_block = groups.first(group), last_block = groups.first(group + 1), own = last_block - first_block;
    const float *group_panels = panels + static_cast<size_t>(first_block) * LANES * l.out_channels;
    const size_t tile_block = static_cast<size_t>(MAX_TILE) * LANES;
    float *x = thread_scratch((own + blocks) * tile_block), *d = x + own * tile_block;
    split.for_tiles(part, [&](size_t first, int count, int next_count, bool first_tile) {
      for (int b = 0; b < blocks; ++b) load_gradient(gradient, b, first, count, d + b * tile_block);
      load_input(l, value, image, first_block, last_block, first, count, MAX_TILE, x);
      const int channels = std::min(k - first_block * LANES, own * LANES);
      Prefetcher prefetcher;
      const size_t next = first + count;
      prefetcher.add(gradient.gradient.from(0, next), blocks, next_count);
      prefetcher.add(gradient.raw.from(0, next), blocks, next_count);
      prefetcher.add(value.raw.from(first_block, next), own, next_count);
      prefetcher.add(shortcut_gradient.from(first_block, next), own, next_count);
      prefetcher.start(weight_gradient_steps(count, channels, blocks) +
                       (input_gradient ? gemm_steps(count, l.out_channels, own) : 0));
      const auto step = [&] { prefetcher.step(); };
      add_weight_gradient(x, d, MAX_TILE, count, channels, blocks, partial + weights * part + first_block * LANES * row,
                          first_tile, step);
      if (!input_gradient) return;
      gemm(
          d, MAX_TILE, count, group_panels, l.out_channels, own,
          [&](int pixel, int vector, const auto &column) {
            const int block = first_block + vector;
            const BackwardEpilogue<Vec> epilogue(producer, block);
            float *kept = sums.at(part, k_blocks, block);
            GradientSums<Vec> total;
            if (!first_tile || pixel != 0) total.read(kept);
            const size_t start = first + pixel;
#pragma GCC unroll 24
            for (int r = 0; r < column.ROWS; ++r) {
              if (pixel + r >= count) break;
              Vec g = column.at[r];
              if (shortcut_gradient) g += load(shortcut_gradient.at(block, start + r));
              store(input_gradient.at(block, start + r), epilogue(g, start + r, total));
            }
            total.write(kept);
          },
          step);
    });
  });
  // Tasks of some input channels each add up the parts, and write the rows of the framework's layout.
  parallel(k_blocks, [&](int k_block) {
    for (int block = 0; block < blocks; ++block) {
      for (int i = k_block * LANES; i < std::min(k, (k_block + 1) * LANES); ++i) {
        Vec total = {};
        for (int part = 0; part < split.parts; ++part)
          total += load(partial + weights * part + i * row + block * LANES);
        float lanes[LANES];
        store(lanes, total);
        for (int j = 0; j < std::min(LANES, l.out_channels - block * LANES); ++j)
          weight_gradient[static_cast<size_t>(block * LANES + j) * k + i] = lanes[j];
      }
    }
  });
}

void image_gradient(const Layer &l, const RawGradient &gradient, float *out) {
  const int k = l.taps();
  const size_t plane = l.in_plane(), out_plane = l.out_plane();
  parallel(l.images, [&](int index) {
    float *image = out + index * l.in_channels * plane;
    std::fill_n(image, l.in_channels * plane, 0.0f);
    float *d = thread_scratch(l.out_blocks() * LANES);
    for (size_t pixel = 0; pixel < out_plane; ++pixel) {
      const int y0 = l.first_row + static_cast<int>(pixel / l.out_width) * l.stride - 1;
      const int x0 = l.first_column + static_cast<int>(pixel % l.out_width) * l.stride - 1;
      for (int b = 0; b < l.out_blocks(); ++b) load_gradient(gradient, b, index * out_plane + pixel, 1, d + b * LANES);
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
