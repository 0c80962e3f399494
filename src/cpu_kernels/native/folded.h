// Convolutions with their batch normalisation folded in, for inference.
#pragma once

#include <vector>

#include "layer.h"

struct FoldedLayer {
  const float *weights;  // panels of gemm.h; for a depthwise convolution [block][tap][16]
  const float *bias;
};

// The layers with their present parameters. Folded anew only when these have changed since one of the last calls, which
// their digest tells: parameters may be written by anybody, at any time. Valid until the next call.
const std::vector<FoldedLayer> &folded_layers(const std::vector<Layer> &layers);
