// Inference with the moving statistics: batch normalisation is folded into the weights, and a whole inverted residual
// is computed by tiles of its output rows, small enough for the expanded tensor to stay in the L2 cache. Where the
// images are too few for that to give several tasks, the expanded tensor is made by groups of its channels instead.
#include <algorithm>

#include "backbone.h"
#include "depthwise.h"
#include "folded.h"
#include "im2col.h"
#include "layout.h"
#include "tasks.h"
#include "thread_pool.h"
#include "workspace.h"

namespace {

constexpr size_t TILE_FLOATS = size_t{1} << 18;  // 1 MB of the expanded tensor: half of a common L2 cache
constexpr int WANTED_TASKS = 16;                 // of a fused block, before it is cut in two
constexpr size_t SLACK = LARGEST_MR * LANES;     // gemm reads so far beyond a tensor's end

// Layers computed together: a depthwise convolution with the expanding one before it and the 1x1 one behind it, either
// of which may be missing; or one other convolution alone, as `project`.
struct FusedBlock {
  const Layer *expand = nullptr, *depthwise = nullptr, *project = nullptr;
  int first = 0;           // the index of its first layer
  int shortcut_block = 0;  // how many fused blocks back the shortcut's value was the input

  const Layer &end() const { return project != nullptr ? *project : *depthwise; }
  int count() const { return (expand != nullptr) + (depthwise != nullptr) + (project != nullptr); }
};

// Output rows first ... last - 1 of `images` images; all rows if there are several images.
struct RowTile {
  int image, images, first, last;

  // The rows of the depthwise convolution's input that it needs.
  int first_in(const Layer &l) const { return std::max(0, l.first_row + first * l.stride - 1); }
  int last_in(const Layer &l) const { return std::min(l.height, l.first_row + (last - 1) * l.stride + 2); }
};

// `at_once` images together, each group of them cut into `parts` row tiles.
std::vector<RowTile> cut(const Layer &l, int at_once, int parts) {
  std::vector<RowTile> tiles;
  for (int image = 0; image < l.images; image += at_once)
    for (int i = 0; i < parts; ++i)
      tiles.push_back(
          {image, std::min(at_once, l.images - image), l.out_height * i / parts, l.out_height * (i + 1) / parts});
  return tiles;
}

// Whole images while several fit, else as many rows of one as do.
std::vector<RowTile> row_tiles(const FusedBlock &b) {
  const Layer &l = *b.depthwise;
  const size_t row = static_cast<size_t>(l.in_blocks()) * l.width * l.stride * LANES;
  const int rows = static_cast<int>(std::clamp<size_t>(TILE_FLOATS / row, 1, l.out_height));
  const size_t fitting = TILE_FLOATS / (row * l.out_height);
  const int images = static_cast<int>(std::clamp<size_t>(fitting, 1, std::max(1, l.images / WANTED_TASKS)));
  return cut(l, images, divide_up(l.out_height, rows));
}

std::vector<FusedBlock> fused_blocks(const std::vector<Layer> &layers) {
  const int count = static_cast<int>(layers.size());
  const auto is = [&](int i, Kind kind) { return i < count && layers[i].kind == kind; };
  // A shortcut is added at the end of a block and must come from its start.
  const auto joins = [&](int i, int start) { return layers[i].shortcut < 0 || layers[i].shortcut == start; };
  std::vector<FusedBlock> blocks;
  for (int i = 0, next = 0; i < count; i = next) {
    FusedBlock b;
    b.first = i;
    if (is(i + 1, Kind::depthwise) && !is(i, Kind::depthwise) && layers[i].shortcut < 0 &&
        !(is(i + 2, Kind::pointwise) && !joins(i + 2, i)))
      b.expand = &layers[next++];
    if (is(next, Kind::depthwise)) b.depthwise = &layers[next++];
    if (b.depthwise == nullptr || is(next, Kind::pointwise)) b.project = &layers[next++];
    if (b.depthwise != nullptr && b.project != nullptr && row_tiles(b).size() < WANTED_TASKS) {
      FusedBlock rest;
      rest.project = b.project;
      rest.first = next - 1;
      rest.shortcut_block = 1;
      b.project = nullptr;
      blocks.push_back(b);
      b = rest;
    }
    blocks.push_back(b);
  }
  return blocks;
}

// A blocked tensor whose rows have a zero between them, before the first and behind the last: what a depthwise
// convolution reads beyond a row's ends.
struct PaddedRows {
  BlockedTensor tensor;  // starts with a zero
  int rows, width;

  PaddedRows(float *memory, int rows, int width) : tensor{memory, stride(rows, width)}, rows(rows), width(width) {}

  // A tile of up to MAX_TILE pixels, from `pixel` on; these are counted without the zeros.
  struct Tile {
    BlockedTensor tensor;
    int offsets[MAX_TILE];

    float *at(int block, int pixel) const { return tensor.at(block, offsets[pixel]); }
  };

  static size_t stride(int rows, int width) { return static_cast<size_t>(rows) * (width + 1) + 1; }
  float *row(int block, int y) const { return tensor.at(block, static_cast<size_t>(y) * (width + 1) + 1); }
  Tile tile(size_t pixel) const {
    const int y = static_cast<int>(pixel / width);
    int x = static_cast<int>(pixel % width);
    Tile tile = {{row(0, y), tensor.stride}, {}};
    for (int i = 0, offset = x; i < MAX_TILE; ++i, ++offset) {
      tile.offsets[i] = offset;
      if (++x == width) x = 0, ++offset;
    }
    return tile;
  }
  void clear_padding(int blocks) const {
    for (int block = 0; block < blocks; ++block)
      for (int y = 0; y <= rows; ++y) std::fill_n(row(block, y) - LANES, LANES, 0.0f);
  }
};

// A fused block's input, output, and what its shortcut adds (there may be none), whole.
struct Tensors {
  ConstBlockedTensor input, shortcut;
  BlockedTensor output;
  const float *image;  // the plain input of Kind::dense
};

// Channel blocks first ... last - 1 of the output at `count` pixels of `in`; `shortcut` and `out` start there.
template <class Out>
void gemm_with_epilogue(const Layer &l, const FoldedLayer &folded, int first, int last, ConstBlockedTensor in,
                        int count, ConstBlockedTensor shortcut, const Out &out) {
  const float *panels = folded.weights + static_cast<size_t>(first) * LANES * l.taps();
  gemm_few_rows(in.data, in.stride, count, panels, l.taps(), last - first,
                [&](int row, int vector, const auto &column) {
                  const Vec bias = load(folded.bias + (first + vector) * LANES);
#pragma GCC unroll 24
                  for (int r = 0; r < column.ROWS; ++r) {
                    if (row + r >= count) break;
                    Vec y = column.at[r] + bias;
                    if (l.activation) y = relu6(y);
                    if (shortcut) y += load(shortcut.at(vector, row + r));
                    store(out.at(vector, row + r), y);
                  }
                });
}

// The same, at pixels first_pixel ... first_pixel + count - 1 of the whole output; out_from(i) is where those from the
// i-th on go, up to MAX_TILE of them. `memory`: im2col_floats(l).
template <class OutFrom>
void convolve(const Layer &l, const FoldedLayer &folded, int first, int last, const Tensors &tensors,
              size_t first_pixel, size_t count, float *memory, ConstBlockedTensor shortcut, OutFrom &&out_from) {
  for (size_t done = 0; done < count; done += MAX_TILE) {
    const int pixels = static_cast<int>(std::min<size_t>(MAX_TILE, count - done));
    ConstBlockedTensor in = tensors.input.from(0, first_pixel + done);
    if (l.kind == Kind::dense) {
      im2col(l, tensors.image, first_pixel + done, pixels, MAX_TILE, memory);
      in = {memory, MAX_TILE};
    }
    gemm_with_epilogue(l, folded, first, last, in, pixels, shortcut.from(0, done), out_from(done));
  }
}

size_t im2col_floats(const Layer &l) {
  return l.kind == Kind::dense ? static_cast<size_t>(blocks_of(l.taps())) * MAX_TILE * LANES : 0;
}

// The same rows of the tensor as they are.
void copy_rows(ConstBlockedTensor in, int blocks, const PaddedRows &out) {
  for (int block = 0; block < blocks; ++block)
    for (int y = 0; y < out.rows; ++y)
      std::copy_n(in.at(block, static_cast<size_t>(y) * out.width), static_cast<size_t>(out.width) * LANES,
                  out.row(block, y));
}

// Channel blocks first ... last - 1 of the row tile; `in` starts at the first row that it needs, `out` where it writes.
// `zeros`: a row of them, with its padding.
template <int S>
void convolve_planes(const Layer &l, const FoldedLayer &folded, int first, int last, const RowTile &tile,
                     const PaddedRows &in, const float *zeros, BlockedTensor out) {
  const int first_in = tile.first_in(l), rows_in = tile.last_in(l) - first_in, rows_out = tile.last - tile.first;
  for (int block = first; block < last; ++block) {
    for (int image = 0; image < tile.images; ++image) {
      const auto row = [&](int y) {
        const bool inside = y >= 0 && y < l.height;
        const float *start = inside ? in.row(block - first, image * rows_in + y - first_in) : zeros + LANES;
        return start + l.first_column * LANES;
      };
      float *to = out.at(block - first, static_cast<size_t>(image) * rows_out * l.out_width);
      for (int y = tile.first; y < tile.last; ++y, to += static_cast<size_t>(l.out_width) * LANES) {
        const int middle = l.first_row + y * S;
        depthwise_row<S>(folded.weights + block * TAPS * LANES, row(middle - 1), row(middle), row(middle + 1),
                         [&](int lane, auto &&convolve) {
                           Register bias;
                           load(folded.bias + block * LANES + lane, bias);
                           float *at = to + lane;
                           if (l.activation) {
                             for (int x = 0; x < l.out_width; ++x, at += LANES) store(at, relu6(convolve(x) + bias));
                           } else {
                             for (int x = 0; x < l.out_width; ++x, at += LANES) store(at, convolve(x) + bias);
                           }
                         });
      }
    }
  }
}

// A row tile of a block with a depthwise convolution; of channels first ... last - 1 alone if there is no projection.
void run(const FusedBlock &b, const FoldedLayer *folded, const Tensors &tensors, const RowTile &tile, int first,
         int last) {
  const Layer &end = b.end(), &l = *b.depthwise;
  const int first_in = tile.first_in(l), rows_in = tile.images * (tile.last_in(l) - first_in), blocks = last - first;
  const size_t count = static_cast<size_t>(tile.images) * (tile.last - tile.first) * end.out_width;
  const size_t start = (static_cast<size_t>(tile.image) * end.out_height + tile.first) * end.out_width;
  const size_t start_in = (static_cast<size_t>(tile.image) * l.height + first_in) * l.width;
  const size_t expanded_floats = blocks * PaddedRows::stride(rows_in, l.width) * LANES;
  const size_t middle_floats = b.project != nullptr ? blocks * count * LANES + SLACK : 0;
  const size_t zero_floats = PaddedRows::stride(1, l.width) * LANES;
  float *memory =
      thread_scratch(expanded_floats + middle_floats + zero_floats + (b.expand ? im2col_floats(*b.expand) : 0));
  const PaddedRows expanded(memory, rows_in, l.width);
  float *middle = memory + expanded_floats, *zeros = middle + middle_floats;

  expanded.clear_padding(blocks);
  std::fill_n(zeros, zero_floats, 0.0f);
  if (b.expand != nullptr) {
    convolve(*b.expand, *folded++, first, last, tensors, start_in, static_cast<size_t>(rows_in) * l.width,
             zeros + zero_floats, {}, [&](size_t done) { return expanded.tile(done); });
  } else {
    copy_rows(tensors.input.from(first, start_in), blocks, expanded);
  }
  const BlockedTensor out = b.project != nullptr ? BlockedTensor{middle, count} : tensors.output.from(first, start);
  (l.stride == 1 ? convolve_planes<1> : convolve_planes<2>)(l, *folded++, first, last, tile, expanded, zeros, out);
  if (b.project == nullptr) return;
  gemm_with_epilogue(end, *folded, 0, end.out_blocks(), out, static_cast<int>(count), tensors.shortcut.from(0, start),
                     tensors.output.from(0, start));
}

// Row tiles, each of all channels in a block that ends with a projection; else of groups of channels, and of
// rows where the groups are few.
void run_depthwise(const FusedBlock &b, const FoldedLayer *folded, const Tensors &tensors) {
  const Layer &l = *b.depthwise;
  std::vector<RowTile> tiles = row_tiles(b);
  int groups = 1;
  if (b.project == nullptr) {
    const ChannelGroups most(l.out_blocks(), static_cast<int>(tiles.size()), WANTED_TASKS);
    groups = most.groups;
    const int parts = groups * tiles.size() < WANTED_TASKS / 2
                          ? std::clamp(l.out_height / 4, 1, divide_up(WANTED_TASKS, groups * l.images))
                          : 0;
    if (parts * l.images > static_cast<int>(tiles.size())) tiles = cut(l, 1, parts);
  }
  const int count = static_cast<int>(tiles.size());
  const ChannelGroups channels(l.out_blocks(), 1, groups);
  parallel(count * channels.groups, [&](int task) {
    const int group = task / count;
    run(b, folded, tensors, tiles[task % count], channels.first(group), channels.first(group + 1));
  });
}

void run_gemm(const FusedBlock &b, const FoldedLayer &folded, const Tensors &tensors) {
  const Layer &l = *b.project;
  const PixelParts split(l.out_pixels(), static_cast<int>(std::max<size_t>(WANTED_TASKS, l.out_pixels() / MAX_TILE)));
  const ChannelGroups groups(l.out_blocks(), split.parts, WANTED_TASKS);
  parallel(split.parts * groups.groups, [&](int task) {
    const int part = task / groups.groups, group = task % groups.groups, first = groups.first(group);
    const size_t pixel = split.first_pixel(part);
    convolve(l, folded, first, groups.first(group + 1), tensors, pixel, split.pixels_of(part),
             thread_scratch(im2col_floats(l)), tensors.shortcut.from(first, pixel),
             [&](size_t done) { return tensors.output.from(first, pixel + done); });
  });
}

}  // namespace

void Backbone::infer(const float *input, float *features) const {
  const std::vector<FusedBlock> blocks = fused_blocks(layers);
  const std::vector<FoldedLayer> &folded = folded_layers(layers);
  const size_t plain = first().kind == Kind::dense ? 0 : first().in_floats();
  size_t largest = plain;
  for (const FusedBlock &b : blocks) largest = std::max(largest, b.end().out_floats());
  largest += SLACK;
  // Three tensors take turns: a block's output, its input, and the input of the block before it, for a shortcut.
  float *memory = shared_scratch(ScratchSlot::values, 3 * largest);
  const auto tensor = [&](size_t i) { return memory + i % 3 * largest; };
  if (plain != 0)
    to_blocks(input, first().images, first().in_channels, first().in_plane(), {tensor(0), first().in_pixels()});
  for (size_t i = 0; i < blocks.size(); ++i) {
    const FusedBlock &b = blocks[i];
    const Layer &start = layers[b.first];
    const size_t pixels = b.end().out_pixels();
    Tensors tensors = {{tensor(i), start.in_pixels()}, {}, {tensor(i + 1), pixels}, input};
    if (b.end().shortcut >= 0) tensors.shortcut = {tensor(i - b.shortcut_block + 3), pixels};
    if (b.depthwise != nullptr) {
      run_depthwise(b, &folded[b.first], tensors);
    } else {
      run_gemm(b, folded[b.first], tensors);
    }
  }
  write_features({{tensor(blocks.size()), last().out_pixels()}, {}, false}, features);
}
