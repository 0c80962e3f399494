// Between the framework's layout and blocks of sixteen channels (see layer.h).
#pragma once

#include "layer.h"

// From and to N x C x (pixels of an image).
void to_blocks(const float *plain, int images, int channels, size_t plane, BlockedTensor blocked);
void from_blocks(const Activations &value, int images, int channels, size_t plane, float *plain);

// The mean over each image's pixels, as N x C, and the gradient of what it is the mean of.
void mean_from_blocks(const Activations &value, int images, int channels, size_t plane, float *means);
void mean_gradient_to_blocks(const float *gradient, int images, int channels, size_t plane, BlockedTensor blocked);

// out = value + shortcut, blocked.
void add(const Activations &value, const Activations &shortcut, int blocks, size_t pixels, BlockedTensor out);
