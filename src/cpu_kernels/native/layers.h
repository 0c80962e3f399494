// The three convolutions of MobileNetV2, forward and backward, each with the batch normalisation and ReLU6 of its
// neighbours folded into its loads and stores.
//
// Tensors are blocked: value (channel c, pixel p of all pictures) stands at [c / 16][p][c % 16]; missing channels of
// the last block are zero or meaningless, never read as input channels. Only the convolutions' raw outputs y are
// stored; what the next layer reads, relu6(scale * y + shift), is computed while loading.
#pragma once

#include <cstddef>
#include <vector>

#include "simd.h"

enum class Kind : int { pointwise = 0, depthwise = 1, full = 2 };  // 1x1; 3x3 per channel; 3x3 over all channels

struct Layer {
  Kind kind;
  int stride;
  bool activation;  // ReLU6 behind the batch normalisation
  int shortcut;     // the value added behind it, or -1; value 0 is the chain's input, value i the output of layer i - 1
  int in_channels, out_channels;
  int pictures, height, width, out_height, out_width;
  float epsilon, momentum;  // momentum: the share of the batch in the moving statistics
  const float *weight, *gamma, *beta;
  float *moving_mean, *moving_variance;

  int in_blocks() const { return blocks_of(in_channels); }
  int out_blocks() const { return blocks_of(out_channels); }
  size_t in_pixels() const { return static_cast<size_t>(pictures) * height * width; }
  size_t out_pixels() const { return static_cast<size_t>(pictures) * out_height * out_width; }
  size_t in_floats() const { return in_blocks() * in_pixels() * LANES; }
  size_t out_floats() const { return out_blocks() * out_pixels() * LANES; }
  int taps() const { return kind == Kind::pointwise ? in_channels : kind == Kind::depthwise ? 9 : 9 * in_channels; }
};

// A batch normalisation that has seen its batch: one float per channel each, out_blocks() * 16 of them.
struct Norm {
  float *scale, *shift, *mean, *inverse_deviation;
};

// A blocked tensor, seen through the normalisation and ReLU6 of the layer that made it (`norm` null: as it is).
struct View {
  const float *data;
  const Norm *norm;
  bool activation;
};

// The layer that made a layer's input, for the backward pass: its raw output decides where ReLU6 was open, and the
// sums over the gradient and gradient * (y - mean) are its batch normalisation's. y null: the chain's own input.
struct Producer {
  const float *y;
  const Norm *norm;
  bool activation;
};

// The gradient of a raw output, a * g + b * y + c per channel, g being the gradient behind the batch normalisation.
struct RawGradient {
  const float *g, *y, *a, *b, *c;
};

// Sums over disjoint parts of the pixels, each part by one task, so that the totals never depend on the threads:
// data is [part][block][SUMS][16]. Forward: pivot, sum of y - pivot, sum of its squares (the pivot, a finite value of
// the part itself, keeps the variance exact when the mean is far from zero). Backward: two sums, as said at Producer.
struct Parts {
  static constexpr int SUMS = 3;
  std::vector<float> data;
  std::vector<int> pixels;  // of each part
};

// y = convolution of the input; `image` is the plain N x C x H x W input of Kind::full, `value` that of the others.
void forward(const Layer &layer, const View &value, const float *image, float *y, Parts &parts);

// The gradient of the weights (in the framework's layout), and, unless null, of the input: `input_gradient` is the
// gradient behind the producer's batch normalisation, the ReLU6 in between accounted for, with `shortcut_gradient`
// (may be null, may be the same memory) added first.
void backward(const Layer &layer, const View &value, const float *image, const RawGradient &gradient,
              const Producer &producer, const float *shortcut_gradient, float *weight_gradient, float *input_gradient,
              Parts &parts);

// The gradient of the plain N x C x H x W input of Kind::full.
void image_gradient(const Layer &layer, const RawGradient &gradient, float *out);

// Between N x C x (pixels of a picture) and blocks.
void to_blocks(const float *plain, int pictures, int channels, size_t plane, float *blocked);
void from_blocks(const View &value, int pictures, int channels, size_t plane, float *plain);

// out = value + shortcut, blocked.
void add(const View &value, const View &shortcut, int blocks, size_t pixels, float *out);

// Cuts the gradient behind a ReLU6 (or none) to that before it, in place, and sums it up for the normalisation.
void close_activation(const Layer &layer, const Producer &producer, float *gradient, Parts &parts);
