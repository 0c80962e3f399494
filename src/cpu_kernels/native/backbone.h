// The convolutions of a backbone, or of a part of one (a ConvBN, an inverted residual), with batch normalisation.
#pragma once

#include <cstdint>
#include <vector>

#include "layer.h"

// What its plan, an int32 array, says: whether batch statistics are used (else the moving ones), whether the
// features are pooled (their mean over each image's pixels), the number of layers, then seven numbers a layer: kind,
// stride, activation, shortcut, in_channels, out_channels (see Layer), and whether it has TensorFlow's SAME padding.
struct Backbone {
  std::vector<Layer> layers;
  bool batch_statistics, pooled;

  Backbone(const int32_t *plan, int images, int height, int width);
  // Points the layers at five arrays of parameters each (weight, gamma, beta, moving mean, moving variance; all
  // weights first) and at `constants`, epsilon and momentum of each layer.
  void bind(void *const *parameters, const float *constants);

  const Layer &first() const { return layers.front(); }
  const Layer &last() const { return layers.back(); }
  size_t saved_floats() const;

  // `saved`: the activations that the backward pass needs. Updates the moving statistics if batch statistics are used.
  void forward(const float *input, float *features, float *saved) const;
  // The same with the moving statistics, fast, and keeping nothing.
  void infer(const float *input, float *features) const;
  // `weights`, `gammas`, `betas`: where the gradients go, one each per layer; `input_gradient` may be null.
  void backward(const float *input, const float *saved, const float *features_gradient, float *const *weights,
                float *const *gammas, float *const *betas, float *input_gradient) const;

 private:
  void write_features(const Activations &value, float *features) const;
};
