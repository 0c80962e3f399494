// An image, and what is done with all of it: turning and resizing.
#pragma once

#include <vector>

struct Image {
  int width = 0;
  int height = 0;
  std::vector<unsigned char> rgb;  // height x width x 3
};

// The image upright; `orientation` is of `jpeg_orientation`.
Image upright(const Image &image, int orientation);

enum class Interpolation { bilinear, bicubic };

// Resizing as OpenCV does it on 8-bit images, which is what MindSpore's Resize calls: bilinear to the bit; bicubic but
// for a rounding here and there, for OpenCV adds up the rows in float32 on some processors.
Image resize(const Image &image, int width, int height, Interpolation interpolation = Interpolation::bilinear);
