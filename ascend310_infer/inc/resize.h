// Bilinear resizing to the bit as OpenCV does it on 8-bit images, which is what MindSpore's Resize calls.
#pragma once

#include <vector>

struct Image {
  int width = 0;
  int height = 0;
  std::vector<unsigned char> rgb;  // height x width x 3
};

Image resize(const Image &image, int width, int height);
