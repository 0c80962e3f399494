// Between the framework's layout and blocks of sixteen channels (see layer.h).
#pragma once

#include "layer.h"

// From and to N x C x (pixels of an image).
void to_blocks(const float *plain, int images, int channels, size_t plane, float *blocked);
void from_blocks(const Blocked &value, int images, int channels, size_t plane, float *plain);

// out = value + shortcut, blocked.
void add(const Blocked &value, const Blocked &shortcut, int blocks, size_t pixels, float *out);
