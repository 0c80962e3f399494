// What a convolution is, and the tensors between two of them.
//
// Tensors are blocked: value (channel c, pixel p of all images) stands at [c / 16][p][c % 16]; missing channels of the
// last block are zero or meaningless, never read as input channels. Only the convolutions' raw outputs y are stored;
// what the next layer reads, relu6(scale * y + shift), is computed while loading.
#pragma once

#include <cstddef>
#include <vector>

#include "simd.h"

enum class Kind : int { pointwise = 0, depthwise = 1, dense = 2 };  // 1x1; 3x3 per channel; 3x3 over all channels

struct Layer {
  Kind kind;
  int stride;
  bool activation;  // ReLU6 behind the batch normalisation
  int shortcut;     // the value added behind it, or -1; value 0 is the input, value i the output of layer i - 1
  int in_channels, out_channels;
  int images, height, width, out_height, out_width;
  // The row and column of the input at the middle of the first 3x3 window: 0, or 1 where the padding of an even side is
  // all behind it. Window i is in the middle at first_row + i * stride.
  int first_row, first_column;
  float epsilon, momentum;  // momentum: the weight of the batch in the moving statistics
  const float *weight, *gamma, *beta;
  float *moving_mean, *moving_variance;

  int in_blocks() const { return blocks_of(in_channels); }
  int out_blocks() const { return blocks_of(out_channels); }
  size_t in_plane() const { return static_cast<size_t>(height) * width; }
  size_t out_plane() const { return static_cast<size_t>(out_height) * out_width; }
  size_t in_pixels() const { return images * in_plane(); }
  size_t out_pixels() const { return images * out_plane(); }
  size_t in_floats() const { return in_blocks() * in_pixels() * LANES; }
  size_t out_floats() const { return out_blocks() * out_pixels() * LANES; }
  int taps() const { return kind == Kind::pointwise ? in_channels : kind == Kind::depthwise ? 9 : 9 * in_channels; }
};

// A view of a blocked tensor, or of a part of one that starts at some channel block and pixel.
template <class Float> struct BlockedView {
  Float *data = nullptr;  // null: there is no tensor
  size_t stride = 0;      // pixels from one channel block to the next

  explicit operator bool() const { return data != nullptr; }
  operator BlockedView<const Float>() const { return {data, stride}; }
  Float *at(int block, size_t pixel) const { return data + (block * stride + pixel) * LANES; }
  BlockedView from(int block, size_t pixel) const {
    return data == nullptr ? BlockedView{} : BlockedView{at(block, pixel), stride};
  }
};
using BlockedTensor = BlockedView<float>;
using ConstBlockedTensor = BlockedView<const float>;

// A batch normalisation that has seen its batch: one float per channel each, out_blocks() * 16 of them.
template <class Float> struct NormView {
  Float *scale = nullptr, *shift = nullptr, *mean = nullptr, *inverse_deviation = nullptr;

  operator NormView<const Float>() const { return {scale, shift, mean, inverse_deviation}; }
};
using Norm = NormView<float>;
using ConstNorm = NormView<const float>;

// What the next layer reads: a tensor, through the normalisation and ReLU6 of the layer that made it. `norm.scale`
// null: the tensor as it is.
struct Activations {
  ConstBlockedTensor raw;
  ConstNorm norm;
  bool activation = false;
};

// The gradient of a raw output, a * gradient + b * raw + c per channel, `gradient` being that behind the batch
// normalisation.
struct RawGradient {
  ConstBlockedTensor gradient, raw;
  const float *a, *b, *c;
};

// Sums over disjoint parts of the pixels, each part by one task, so that the totals never depend on the threads:
// data is [part][block][SUMS][16]. Forward: pivot, sum of y - pivot, sum of its squares (the pivot, a finite value of
// the part itself, keeps the variance exact when the mean is far from zero). Backward: the sums over the gradient and
// gradient * (y - mean).
struct PartialSums {
  static constexpr int SUMS = 3;
  std::vector<float> data;
  std::vector<int> pixels;  // of each part

  void prepare(int parts, int blocks) {
    pixels.resize(parts);
    data.resize(static_cast<size_t>(parts) * blocks * SUMS * LANES);
  }
  float *at(int part, int blocks, int block) {
    return data.data() + (static_cast<size_t>(part) * blocks + block) * SUMS * LANES;
  }
  float at(size_t part, int blocks, int channel, int sum) const {
    return data[((part * blocks + channel / LANES) * SUMS + sum) * LANES + channel % LANES];
  }
};
