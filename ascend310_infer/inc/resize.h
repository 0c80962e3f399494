// Bilinear resizing to the bit as OpenCV does it on 8-bit pictures, which is what MindSpore's Resize calls.
#ifndef INFER310_RESIZE_H_
#define INFER310_RESIZE_H_

#include <vector>

struct Picture {
  int width = 0;
  int height = 0;
  std::vector<unsigned char> rgb;  // height x width x 3
};

Picture Resize(const Picture &picture, int width, int height);

#endif
