// The chain with its moving statistics: batch normalisation is folded into the weights, and a whole inverted residual
// is computed band by band of its output rows, small enough for the expanded tensor to stay in the L2 cache.
#include <algorithm>
#include <cmath>

#include "chain.h"
#include "depthwise.h"
#include "loads.h"
#include "product.h"
#include "threads.h"

namespace {

constexpr size_t BAND_FLOATS = size_t{1} << 18;  // 1 MB of the expanded tensor: half of a common L2 cache
constexpr size_t SLACK = 24 * LANES;             // `product` reads up to a group of rows beyond a tile

// Layers computed together: a depthwise convolution with the wide one before it and the 1x1 one behind it, either of
// which may be missing; or one other convolution alone, as `narrow`.
struct Segment {
  const Layer *wide = nullptr, *depthwise = nullptr, *narrow = nullptr;
  int input = 0;  // the value it reads: the index of its first layer

  const Layer &end() const { return narrow != nullptr ? *narrow : *depthwise; }
  int count() const { return (wide != nullptr) + (depthwise != nullptr) + (narrow != nullptr); }
};

// A convolution with its batch normalisation folded in.
struct Folded {
  float *weights;  // panels; for a depthwise convolution [block][tap][16]
  float *bias;
};

std::vector<Segment> segments_of(const std::vector<Layer> &layers) {
  const int count = static_cast<int>(layers.size());
  auto is = [&](int i, Kind kind) { return i < count && layers[i].kind == kind; };
  // A shortcut is added at the end of a segment and must come from its start.
  auto joins = [&](int i, int start) { return layers[i].shortcut < 0 || layers[i].shortcut == start; };
  std::vector<Segment> segments;
  for (int i = 0; i < count; i += segments.back().count()) {
    Segment s;
    s.input = i;
    int next = i;
    if (is(i + 1, Kind::depthwise) && !is(i, Kind::depthwise) && layers[i].shortcut < 0 &&
        !(is(i + 2, Kind::pointwise) && !joins(i + 2, i)))
      s.wide = &layers[next++];
    if (is(next, Kind::depthwise)) s.depthwise = &layers[next++];
    if (s.depthwise == nullptr || is(next, Kind::pointwise)) s.narrow = &layers[next];
    segments.push_back(s);
  }
  return segments;
}

size_t folded_floats(const Layer &l) {
  return static_cast<size_t>(l.taps() + 1) * l.out_blocks() * LANES;
}

Folded fold(const Layer &l, float *memory) {
  const int channels = l.out_blocks() * LANES, k = l.taps();
  Folded folded = {memory, memory + static_cast<size_t>(k) * channels};
  float *scale = thread_scratch(channels);
  for (int c = 0; c < channels; ++c) {
    scale[c] = folded.bias[c] = 0.0f;
    if (c >= l.out_channels) continue;
    scale[c] = static_cast<float>(l.gamma[c] / std::sqrt(static_cast<double>(l.moving_variance[c]) + l.epsilon));
    folded.bias[c] = l.beta[c] - l.moving_mean[c] * scale[c];
  }
  if (l.kind == Kind::depthwise) {
    for (int block = 0; block < l.out_blocks(); ++block) {
      Vec w[9];
      load_taps(l, block, w);
      for (int t = 0; t < 9; ++t) store(memory + (block * 9 + t) * LANES, w[t] * load(scale + block * LANES));
    }
    return folded;
  }
  pack_panels(l.weight, k, 1, l.out_channels, k, memory);
  for_panels(l.out_blocks(), [&](auto width, int first) {
    constexpr int V = decltype(width)::value;
    float *panel = memory + static_cast<size_t>(first) * LANES * k;
    for (int i = 0; i < k; ++i)
      for (int v = 0; v < V; ++v, panel += LANES) store(panel, load(panel) * load(scale + (first + v) * LANES));
  });
  return folded;
}

// Output rows first ... last - 1 of `pictures` pictures; all rows if there are several pictures.
struct Band {
  int picture, pictures, first, last;

  // The rows of the depthwise convolution's input that it needs.
  int first_in(const Layer &l) const { return std::max(0, first * l.stride - 1); }
  int last_in(const Layer &l) const { return std::min(l.height, (last - 1) * l.stride + 2); }
};

// A place in a blocked tensor, `stride` pixels from one block to the next.
struct Window {
  float *data;
  size_t stride;

  float *at(int block, size_t pixel) const { return data + (block * stride + pixel) * LANES; }
};

Window window(float *tensor, size_t pixels, size_t first) { return {tensor + first * LANES, pixels}; }

// `count` pixels of a tile times the weights; `shortcut` may be null.
void multiply(const Layer &l, const Folded &folded, const Window &tile, int count, const Window *shortcut,
              const Window &out) {
  product(tile.data, tile.stride, count, folded.weights, l.taps(), l.out_blocks(),
          [&]<int R, int V>(int row, int vector, Sums<R, V> &sums) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
              const Vec bias = load(folded.bias + (vector + v) * LANES);
#pragma GCC unroll 24
              for (int r = 0; r < R; ++r) {
                if (row + r >= count) break;
                Vec y = sums.at[r][v] + bias;
                if (l.activation) y = relu6(y);
                if (shortcut != nullptr) y += load(shortcut->at(vector + v, row + r));
                store(out.at(vector + v, row + r), y);
              }
            }
          });
}

// Pixels first ... first + count - 1 of the layer's output.
void convolve(const Layer &l, const Folded &folded, const View &value, const float *image, size_t first, size_t count,
              float *memory, const Window &out) {
  for (size_t done = 0; done < count; done += MAX_TILE) {
    const int pixels = static_cast<int>(std::min<size_t>(MAX_TILE, count - done));
    load_input(l, value, image, first + done, pixels, MAX_TILE, memory);
    multiply(l, folded, {memory, MAX_TILE}, pixels, nullptr, {out.at(0, done), out.stride});
  }
}

size_t tile_floats(const Layer &l) { return static_cast<size_t>(blocks_of(l.taps())) * MAX_TILE * LANES; }

// `in` starts at the first row that the band needs.
template <int S>
void convolve_planes(const Layer &l, const Folded &folded, const Band &band, const Window &in, float *memory,
                     const Window &out) {
  const int first_in = band.first_in(l), rows_in = band.last_in(l) - first_in, rows_out = band.last - band.first;
  for (int block = 0; block < l.out_blocks(); ++block) {
    Vec w[9];
    for (int t = 0; t < 9; ++t) w[t] = load(folded.weights + (block * 9 + t) * LANES);
    const Vec bias = load(folded.bias + block * LANES);
    for (int picture = 0; picture < band.pictures; ++picture) {
      const float *from = in.at(block, static_cast<size_t>(picture) * rows_in * l.width);
      float *to = out.at(block, static_cast<size_t>(picture) * rows_out * l.out_width);
      depthwise_plane<S>(
          l, w, band.first, band.last, memory,
          [&](int y, float *row) {
            const size_t floats = static_cast<size_t>(l.width) * LANES;
            std::memcpy(row, from + (y - first_in) * floats, floats * sizeof(float));
          },
          [&](int, int, Vec sum) {
            store(to, l.activation ? relu6(sum + bias) : sum + bias);
            to += LANES;
          });
    }
  }
}

void run(const Segment &s, const Folded *folded, const View &input, const float *image, const Band &band,
         float *output) {
  const Layer &end = s.end();
  const size_t count = static_cast<size_t>(band.pictures) * (band.last - band.first) * end.out_width;
  const size_t first = (static_cast<size_t>(band.picture) * end.out_height + band.first) * end.out_width;
  const Window out = window(output, end.out_pixels(), first);
  if (s.depthwise == nullptr) {
    convolve(end, *folded, input, image, first, count, thread_scratch(tile_floats(end)), out);
    return;
  }
  const Layer &depthwise = *s.depthwise;
  const int first_in = band.first_in(depthwise), rows_in = band.last_in(depthwise) - first_in;
  const size_t start = (static_cast<size_t>(band.picture) * depthwise.height + first_in) * depthwise.width;
  const size_t count_in = static_cast<size_t>(band.pictures) * rows_in * depthwise.width;
  const size_t wide_floats = s.wide != nullptr ? depthwise.in_blocks() * count_in * LANES : 0;
  const size_t middle_floats = depthwise.out_blocks() * count * LANES + SLACK;
  const size_t rows_floats = Rows::floats(depthwise.width);
  float *wide = thread_scratch(wide_floats + middle_floats + rows_floats + (s.wide ? tile_floats(*s.wide) : 0));
  float *middle = wide + wide_floats, *rows = middle + middle_floats, *tile = rows + rows_floats;

  Window in = window(const_cast<float *>(input.data), depthwise.in_pixels(), start);
  if (s.wide != nullptr) {
    in = {wide, count_in};
    convolve(*s.wide, *folded++, input, image, start, count_in, tile, in);
  }
  const Window to = s.narrow != nullptr ? Window{middle, count} : out;
  (depthwise.stride == 1 ? convolve_planes<1> : convolve_planes<2>)(depthwise, *folded++, band, in, rows, to);
  if (s.narrow == nullptr) return;
  const Window shortcut = window(const_cast<float *>(input.data), end.out_pixels(), first);
  multiply(end, *folded, to, static_cast<int>(count), end.shortcut < 0 ? nullptr : &shortcut, out);
}

// Whole pictures while several fit, else as many rows of one as do; at least one task for each of a few threads.
std::vector<Band> bands_of(const Segment &s) {
  const Layer &end = s.end();
  const Layer &widest = s.depthwise != nullptr ? *s.depthwise : end;
  const size_t row = static_cast<size_t>(widest.in_blocks()) * widest.width * widest.stride * LANES;
  const int rows = static_cast<int>(std::clamp<size_t>(BAND_FLOATS / row, 1, end.out_height));
  const size_t fitting = BAND_FLOATS / (row * end.out_height);
  const int pictures = static_cast<int>(std::clamp<size_t>(fitting, 1, std::max(1, end.pictures / 8)));
  const int bands = (end.out_height + rows - 1) / rows;
  std::vector<Band> out;
  for (int picture = 0; picture < end.pictures; picture += pictures)
    for (int i = 0; i < bands; ++i)
      out.push_back({picture, std::min(pictures, end.pictures - picture), end.out_height * i / bands,
                     end.out_height * (i + 1) / bands});
  return out;
}

}  // namespace

void Chain::infer(const float *input, float *features) const {
  const std::vector<Segment> segments = segments_of(layers);
  size_t weights = 0, largest = 0;
  for (const Layer &l : layers) weights += folded_floats(l);
  for (const Segment &s : segments) largest = std::max(largest, s.end().out_floats());
  const size_t plain = first().kind == Kind::full ? 0 : first().in_floats();
  float *memory = shared_scratch(Purpose::values, weights + plain + 2 * largest);
  float *blocked = memory + weights, *outputs[2] = {blocked + plain, blocked + plain + largest};

  std::vector<Folded> folded(layers.size());
  std::vector<size_t> places(layers.size() + 1, 0);
  for (size_t i = 0; i < layers.size(); ++i) places[i + 1] = places[i] + folded_floats(layers[i]);
  parallel(static_cast<int>(layers.size()), [&](int i) { folded[i] = fold(layers[i], memory + places[i]); });

  View value = {blocked, nullptr, false};
  if (plain != 0)
    to_blocks(input, first().pictures, first().in_channels, first().in_pixels() / first().pictures, blocked);
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment &s = segments[i];
    const std::vector<Band> bands = bands_of(s);
    parallel(static_cast<int>(bands.size()),
             [&](int band) { run(s, &folded[s.input], value, input, bands[band], outputs[i % 2]); });
    value.data = outputs[i % 2];
  }
  from_blocks(value, last().pictures, last().out_channels, last().out_pixels() / last().pictures, features);
}
