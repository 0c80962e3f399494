// The three convolutions of MobileNetV2, forward and backward, each with the batch normalisation and ReLU6 of its
// neighbours folded into its loads and stores.
#pragma once

#include "layer.h"

// y = convolution of the input; `image` is the plain N x C x H x W input of Kind::dense, `value` that of
// Kind::pointwise. Without a tensor for y its moments alone are computed.
void gemm_forward(const Layer &layer, const Activations &value, const float *image, BlockedTensor y,
                  PartialSums &moments);
// The same for Kind::depthwise.
void depthwise_forward(const Layer &layer, const Activations &value, BlockedTensor y, PartialSums &moments);

// The gradient of the weights (in the framework's layout), and, if there is a tensor for it, of the input:
// `input_gradient` is the gradient behind the batch normalisation of `producer`, the raw output of the layer that made
// the input, with the ReLU6 in between accounted for, and with `shortcut_gradient` (there may be none, it may be the
// same memory) added first. `sums` are then those of the producer's batch normalisation.
void gemm_backward(const Layer &layer, const Activations &value, const float *image, const RawGradient &gradient,
                   const Activations &producer, ConstBlockedTensor shortcut_gradient, float *weight_gradient,
                   BlockedTensor input_gradient, PartialSums &sums);
void depthwise_backward(const Layer &layer, const Activations &value, const RawGradient &gradient,
                        const Activations &producer, ConstBlockedTensor shortcut_gradient, float *weight_gradient,
                        BlockedTensor input_gradient, PartialSums &sums);

// The gradient of the plain N x C x H x W input of Kind::dense.
void image_gradient(const Layer &layer, const RawGradient &gradient, float *out);
