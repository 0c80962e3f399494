// Folded weights follow every single parameter, and nothing is folded anew while all stay as they are.
#include "folded.h"

#include <cmath>
#include <vector>

#include "checks.h"

namespace {

constexpr int IN = 5, OUT = 19;  // more than a block

// A 1x1 convolution's parameters: weights, gamma, beta, mean, variance.
struct Parameters {
  std::vector<float> values = std::vector<float>(OUT * IN + 4 * OUT);
  Layer layer = {};

  Parameters() {
    for (size_t i = 0; i < values.size(); ++i) values[i] = 0.5f + 0.01f * static_cast<float>(i);
    layer.kind = Kind::pointwise;
    layer.in_channels = IN;
    layer.out_channels = OUT;
    layer.epsilon = 1e-5f;
    float *first = values.data() + OUT * IN;
    layer.weight = values.data();
    layer.gamma = first;
    layer.beta = first + OUT;
    layer.moving_mean = first + 2 * OUT;
    layer.moving_variance = first + 3 * OUT;
  }

  bool fits(const FoldedLayer &folded) const {
    for (int c = 0; c < OUT; ++c) {
      const double scale = layer.gamma[c] / std::sqrt(static_cast<double>(layer.moving_variance[c]) + layer.epsilon);
      const double bias = layer.beta[c] - layer.moving_mean[c] * scale;
      if (std::fabs(folded.bias[c] - bias) > 1e-5 * (1 + std::fabs(bias))) return false;
    }
    return true;
  }
};

}  // namespace

int main() {
  Parameters p;
  const std::vector<Layer> layers = {p.layer};
  const float *first = folded_layers(layers)[0].weights;
  std::vector<float> weights(first, first + IN * 2 * LANES);
  for (size_t i = 0; i < p.values.size(); ++i) {
    const float before = p.values[i];
    for (const float value : {before + 1e-3f, -before}) {
      if (i >= static_cast<size_t>(OUT) * IN + 3 * OUT && value < 0.0f) continue;  // no variance is negative
      folded_layers(layers);
      p.values[i] = value;
      const FoldedLayer folded = folded_layers(layers)[0];
      CHECK(p.fits(folded));
      const bool is_weight = i < static_cast<size_t>(OUT) * IN;
      bool same = true;
      for (size_t w = 0; w < weights.size(); ++w) same = same && folded.weights[w] == weights[w];
      CHECK(!is_weight || !same);
      p.values[i] = before;
    }
  }
  const FoldedLayer again = folded_layers(layers)[0];
  CHECK(p.fits(again) && again.weights == folded_layers(layers)[0].weights);
}
