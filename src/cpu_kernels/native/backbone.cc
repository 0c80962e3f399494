#include "backbone.h"

#include <algorithm>

#include "batch_norm.h"
#include "conv.h"
#include "fused_training.h"
#include "layout.h"
#include "thread_pool.h"
#include "workspace.h"

namespace {

constexpr int HEADER = 3, FIELDS = 7;

// The middle of the first window along a side. TensorFlow's SAME padding puts as few zeros as it takes, and an odd
// number's larger part behind the side.
int first_middle(const Layer &l, int side, bool same_padding) {
  return same_padding && l.stride == 2 && side % 2 == 0 ? 1 : 0;
}

// Whether layer i's output is computed anew by whoever reads it, and not stored: the depthwise convolution behind it
// alone does.
bool is_recomputed(const std::vector<Layer> &layers, size_t i) {
  if (i + 1 >= layers.size() || !is_recomputed(layers[i], layers[i + 1])) return false;
  const int value = static_cast<int>(i) + 1;
  return std::none_of(layers.begin(), layers.end(), [&](const Layer &l) { return l.shortcut == value; });
}

// Where everything lies in the memory of the saved activations: `Float` is const for the backward pass.
template <class Float> struct SavedActivations {
  std::vector<BlockedView<Float>> raw;  // every layer's y that is stored
  std::vector<NormView<Float>> norms;   // every layer's normalisation
  // Values that exist in memory: the blocked input (0), sums with a shortcut (layer + 1).
  std::vector<BlockedView<Float>> values;
  size_t floats = 0;

  SavedActivations(const std::vector<Layer> &layers, Float *memory) {
    const auto take = [&](size_t count) {
      Float *start = memory == nullptr ? nullptr : memory + floats;
      floats += count;
      return start;
    };
    using View = BlockedView<Float>;
    const Layer &first = layers.front();
    values.push_back(first.kind == Kind::dense ? View{} : View{take(first.in_floats()), first.in_pixels()});
    for (size_t i = 0; i < layers.size(); ++i) {
      const Layer &l = layers[i];
      const size_t channels = static_cast<size_t>(l.out_blocks()) * LANES;
      raw.push_back(is_recomputed(layers, i) ? View{} : View{take(l.out_floats()), l.out_pixels()});
      norms.push_back({take(channels), take(channels), take(channels), take(channels)});
      values.push_back(l.shortcut < 0 ? View{} : View{take(l.out_floats()), l.out_pixels()});
    }
  }
  // The input of layer `value`; behind the last layer, the features.
  Activations view(const std::vector<Layer> &layers, int value) const {
    if (value == 0 || values[value]) return {values[value], {}, false};
    return raw_output(layers, value - 1);
  }
  Activations raw_output(const std::vector<Layer> &layers, int layer) const {
    return {raw[layer], norms[layer], layers[layer].activation};
  }
};

}  // namespace

Backbone::Backbone(const int32_t *plan, int images, int height, int width)
    : batch_statistics(plan[0] != 0), pooled(plan[1] != 0) {
  for (int i = 0; i < plan[2]; ++i) {
    const int32_t *p = plan + HEADER + i * FIELDS;
    Layer l = {};
    l.kind = static_cast<Kind>(p[0]);
    l.stride = p[1];
    l.activation = p[2] != 0;
    l.shortcut = p[3];
    l.in_channels = p[4];
    l.out_channels = p[5];
    l.images = images;
    l.height = height;
    l.width = width;
    l.first_row = first_middle(l, height, p[6] != 0);
    l.first_column = first_middle(l, width, p[6] != 0);
    l.out_height = height = (height - 1) / l.stride + 1;
    l.out_width = width = (width - 1) / l.stride + 1;
    layers.push_back(l);
  }
}

void Backbone::bind(void *const *parameters, const float *constants) {
  const size_t count = layers.size();
  for (size_t i = 0; i < count; ++i) {
    auto array = [&](int which) { return static_cast<float *>(parameters[which * count + i]); };
    Layer &l = layers[i];
    l.weight = array(0);
    l.gamma = array(1);
    l.beta = array(2);
    l.moving_mean = array(3);
    l.moving_variance = array(4);
    l.epsilon = constants[2 * i];
    l.momentum = constants[2 * i + 1];
  }
}

size_t Backbone::saved_floats() const { return SavedActivations<float>(layers, nullptr).floats; }

void Backbone::forward(const float *input, float *features, float *memory) const {
  const SavedActivations saved(layers, memory);
  if (saved.values[0]) to_blocks(input, first().images, first().in_channels, first().in_plane(), saved.values[0]);
  PartialSums sums;
  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer &l = layers[i];
    if (i > 0 && is_recomputed(layers, i - 1)) {
      expand_depthwise_forward({layers[i - 1], l, saved.view(layers, i - 1), saved.norms[i - 1]}, saved.raw[i], sums);
    } else if (l.kind == Kind::depthwise) {
      depthwise_forward(l, saved.view(layers, i), saved.raw[i], sums);
    } else if (batch_statistics || !is_recomputed(layers, i)) {
      gemm_forward(l, saved.view(layers, i), input, saved.raw[i], sums);
    }
    if (batch_statistics) {
      use_batch_statistics(l, sums, saved.norms[i]);
    } else {
      use_moving_statistics(l, saved.norms[i]);
    }
    if (l.shortcut >= 0)
      add(saved.raw_output(layers, i), saved.view(layers, l.shortcut), l.out_blocks(), l.out_pixels(),
          saved.values[i + 1]);
  }
  write_features(saved.view(layers, layers.size()), features);
}

void Backbone::write_features(const Activations &value, float *features) const {
  (pooled ? mean_from_blocks : from_blocks)(value, last().images, last().out_channels, last().out_plane(), features);
}

void Backbone::backward(const float *input, const float *memory, const float *features_gradient, float *const *weights,
                        float *const *gammas, float *const *betas, float *input_gradient) const {
  const SavedActivations saved(layers, memory);
  // Three gradients are alive at a time: that of a wide (activated 1x1 or dense 3x3) layer, of a depthwise one, and
  // of a block's output, which a shortcut needs until the block's input is reached.
  auto slot_of = [&](const Layer &l) {
    return l.kind == Kind::depthwise ? ScratchSlot::depthwise_gradients
           : l.activation            ? ScratchSlot::wide_gradients
                                     : ScratchSlot::narrow_gradients;
  };
  size_t most[static_cast<int>(ScratchSlot::count)] = {};
  int widest = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer &l = layers[i];
    widest = std::max(widest, l.out_blocks() * LANES);
    if (is_recomputed(layers, i)) continue;
    size_t &floats = most[static_cast<int>(slot_of(l))];
    floats = std::max(floats, l.out_floats());
  }
  const auto gradient_of = [&](int layer) -> BlockedTensor {
    const ScratchSlot slot = slot_of(layers[layer]);
    return {shared_scratch(slot, most[static_cast<int>(slot)]), layers[layer].out_pixels()};
  };
  const auto raw_output = [&](int layer) { return layer < 0 ? Activations{} : saved.raw_output(layers, layer); };
  std::vector<float> coefficients(3 * widest);
  float *a = coefficients.data(), *b = a + widest, *c = b + widest;
  std::vector<ConstBlockedTensor> shortcut_gradients(layers.size() + 1);
  PartialSums sums;

  const int count = static_cast<int>(layers.size());
  BlockedTensor gradient = gradient_of(count - 1);
  (pooled ? mean_gradient_to_blocks : to_blocks)(features_gradient, last().images, last().out_channels,
                                                 last().out_plane(), gradient);
  start_backward(last(), raw_output(count - 1), gradient, sums);
  for (int i = count - 1, first = i; i >= 0; i = first - 1) {
    const Layer &l = layers[i];
    first = i > 0 && is_recomputed(layers, i - 1) ? i - 1 : i;
    batch_norm_backward(l, sums, saved.norms[i], batch_statistics, gammas[i], betas[i], a, b, c);
    if (l.shortcut >= 0) shortcut_gradients[l.shortcut] = gradient;
    const RawGradient raw = {gradient, saved.raw[i], a, b, c};
    const Activations value = saved.view(layers, first), producer = raw_output(first - 1);
    const ConstBlockedTensor shortcut_gradient = shortcut_gradients[first];
    BlockedTensor next;
    if (first > 0) {
      next = gradient_of(first - 1);
    } else if (l.kind == Kind::dense && input_gradient != nullptr) {
      image_gradient(l, raw, input_gradient);
    } else if (input_gradient != nullptr) {
      next = {shared_scratch(ScratchSlot::values, layers[0].in_floats()), layers[0].in_pixels()};
    }
    if (first < i) {
      expand_depthwise_backward({layers[first], l, value, saved.norms[first]}, raw, batch_statistics, producer,
                                shortcut_gradient, {weights[first], gammas[first], betas[first], weights[i]}, next,
                                sums);
    } else if (l.kind == Kind::depthwise) {
      depthwise_backward(l, value, raw, producer, shortcut_gradient, weights[i], next, sums);
    } else {
      gemm_backward(l, value, input, raw, producer, shortcut_gradient, weights[i], next, sums);
    }
    gradient = next;
  }
  if (gradient)
    from_blocks({gradient, {}, false}, first().images, first().in_channels, first().in_plane(), input_gradient);
}
