// The plan of a backbone and the arguments of its operators, checked.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "arguments.h"
#include "backbone.h"

// The backbone of a plan of so many numbers (see backbone.h) on images of this size. Throws std::invalid_argument
// unless the kernels can run it.
Backbone checked_backbone(const int32_t *plan, int64_t numbers, int64_t images, int64_t height, int64_t width);

Shape features_shape(const Backbone &backbone);
Shape saved_shape(const Backbone &backbone);

// One array for each layer and each of these names, from argument `first` on, all of a name together: first that of the
// shape of the weights, the others have a number per channel.
std::vector<float *> layer_arrays(const Arguments &arguments, int first, const Backbone &backbone,
                                  std::initializer_list<const char *> names);

// What all operators of a backbone take first: the plan, the constants (epsilon and momentum of each layer), the
// images, then the parameters of all layers, to which the backbone is bound.
struct BackboneInputs {
  Backbone backbone;
  Shape images_shape;
  const float *images;
  int end;  // the argument behind them

  explicit BackboneInputs(const Arguments &arguments);
};
