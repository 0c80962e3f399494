// The plan of a chain and the arguments of its operators, checked.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "arguments.h"
#include "chain.h"

// The chain of a plan of so many numbers (see chain.h) on images of this size. Throws std::invalid_argument unless
// the kernels can run it.
Chain checked_chain(const int32_t *plan, int64_t numbers, int64_t images, int64_t height, int64_t width);

Shape features_shape(const Chain &chain);
Shape stash_shape(const Chain &chain);

// One array for each layer and each of these names, from argument `first` on, all of a name together: first that of the
// shape of the weights, the others have a number per channel.
std::vector<float *> layer_arrays(const Arguments &arguments, int first, const Chain &chain,
                                  std::initializer_list<const char *> names);

// What all chain operators take first: the plan, the constants (epsilon and momentum of each layer), the images, then
// the parameters of all layers, to which the chain is bound.
struct ChainInputs {
  Chain chain;
  Shape images_shape;
  const float *images;
  int end;  // the argument behind them

  explicit ChainInputs(const Arguments &arguments);
};
