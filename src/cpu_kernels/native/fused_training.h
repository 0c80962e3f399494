// Training through an expanding 1x1 convolution and the depthwise one behind it without storing the expanded tensor,
// six times as large as what it is made of: whoever needs rows of it computes them anew, into the L2 cache.
#pragma once

#include "layer.h"

// Whether two layers in sequence are computed so. Only the depthwise convolution may read what is between them.
bool is_recomputed(const Layer &expand, const Layer &depthwise);

struct ExpandDepthwise {
  const Layer &expand, &depthwise;
  Activations value;  // the input of `expand`
  ConstNorm norm;     // the batch normalisation between the two
};

// Where the gradients of the parameters go: in the framework's layout.
struct ExpandDepthwiseGradients {
  float *expand_weight, *gamma, *beta, *depthwise_weight;
};

// The raw output of the depthwise convolution, and its moments. `norm` must be there: gemm_forward without an output
// takes the moments of the expanded tensor.
void expand_depthwise_forward(const ExpandDepthwise &layers, BlockedTensor y, PartialSums &moments);

// `gradient` is that of the depthwise convolution's raw output; the rest is as for gemm_backward (conv.h).
void expand_depthwise_backward(const ExpandDepthwise &layers, const RawGradient &gradient, bool batch_statistics,
                               const Activations &producer, ConstBlockedTensor shortcut_gradient,
                               const ExpandDepthwiseGradients &gradients, BlockedTensor input_gradient,
                               PartialSums &sums);
