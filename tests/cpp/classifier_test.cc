// The classifier against plain loops, over odd shapes; an image's logits must not depend on the others with it.
#include "classifier.h"

#include <cmath>
#include <vector>

#include "checks.h"
#include "random_floats.h"
#include "same_bits.h"

namespace {

struct Classification {
  int images, channels, classes;
  std::vector<float> features, weight, bias, logits;

  Classification(int images, int channels, int classes)
      : images(images),
        channels(channels),
        classes(classes),
        features(random_floats(static_cast<size_t>(images) * channels)),
        weight(random_floats(static_cast<size_t>(classes) * channels)),
        bias(random_floats(classes)),
        logits(static_cast<size_t>(images) * classes) {}

  void compute() { classify(features.data(), images, channels, weight.data(), bias.data(), classes, logits.data()); }
  void check() const {
    for (int i = 0; i < images; ++i) {
      for (int c = 0; c < classes; ++c) {
        double expected = bias[c], size = std::fabs(expected);
        for (int k = 0; k < channels; ++k) {
          const double term = static_cast<double>(features[i * channels + k]) * weight[c * channels + k];
          expected += term;
          size += std::fabs(term);
        }
        // Rounding of float32, 6e-8 of the size of the terms, in each of at most a few dozen sums one behind another.
        CHECK(std::fabs(logits[i * classes + c] - expected) <= 2e-6 * size);
      }
    }
  }
  Classification alone(int image) const {
    Classification one = *this;
    one.images = 1;
    one.features.assign(features.begin() + static_cast<std::ptrdiff_t>(image) * channels,
                        features.begin() + static_cast<std::ptrdiff_t>(image + 1) * channels);
    one.logits.resize(classes);
    one.compute();
    return one;
  }
};

}  // namespace

int main() {
  limit_time();
  for (const int images : {1, 2, 5}) {
    for (const int channels : {1, 15, 16, 40, 323}) {
      for (const int classes : {1, 3, 4, 17, 70}) {
        Classification first(images, channels, classes);
        check_on_threads(first, [&](const Classification &again) { CHECK(same_bits(again.logits, first.logits)); });
        for (int i = 0; i < images; ++i) {
          const auto own = first.logits.begin() + static_cast<std::ptrdiff_t>(i) * classes;
          CHECK(same_bits(first.alone(i).logits, {own, own + classes}));
        }
      }
    }
  }
}
