#include "chain.h"

#include <algorithm>
#include <cmath>

#include "threads.h"

namespace {

constexpr int HEADER = 2, FIELDS = 6, NORM_VECTORS = 4;

// Where everything lies in the stash.
struct Stash {
  std::vector<float *> raw;     // every layer's y
  std::vector<Norm> norms;      // every layer's normalisation
  std::vector<float *> values;  // values that exist in memory: the blocked input (0), sums with a shortcut (layer + 1)
  size_t floats = 0;

  Stash(const std::vector<Layer> &layers, float *memory) {
    auto take = [&](size_t count) {
      float *start = memory == nullptr ? nullptr : memory + floats;
      floats += count;
      return start;
    };
    values.push_back(layers.front().kind == Kind::full ? nullptr : take(layers.front().in_floats()));
    for (const Layer &l : layers) {
      const size_t channels = static_cast<size_t>(l.out_blocks()) * LANES;
      raw.push_back(take(l.out_floats()));
      norms.push_back({take(channels), take(channels), take(channels), take(channels)});
      values.push_back(l.shortcut < 0 ? nullptr : take(l.out_floats()));
    }
  }
  View view(const std::vector<Layer> &layers, int value) const {
    if (value == 0 || values[value] != nullptr) return {values[value], nullptr, false};
    return {raw[value - 1], &norms[value - 1], layers[value - 1].activation};
  }
};

// f(channel) for all channels including the padding of the last block.
template <class F> void for_channels(const Layer &l, F &&f) {
  parallel(l.out_blocks(), [&](int block) {
    for (int c = block * LANES; c < (block + 1) * LANES; ++c) f(c);
  });
}

const float *sum_at(const Parts &parts, const Layer &l, size_t part, int channel) {
  return parts.data.data() + (part * l.out_blocks() + channel / LANES) * Parts::SUMS * LANES + channel % LANES;
}

void set_norm(const Layer &l, Norm &norm, int c, double mean, double variance) {
  const double inverse = 1.0 / std::sqrt(variance + l.epsilon);
  norm.mean[c] = static_cast<float>(mean);
  norm.inverse_deviation[c] = static_cast<float>(inverse);
  norm.scale[c] = static_cast<float>(l.gamma[c] * inverse);
  norm.shift[c] = static_cast<float>(l.beta[c] - mean * l.gamma[c] * inverse);
}

void clear_norm(Norm &norm, int c) { norm.mean[c] = norm.inverse_deviation[c] = norm.scale[c] = norm.shift[c] = 0.0f; }

// The parts' means and squared deviations combined in double precision (Chan, Golub, LeVeque).
void use_batch_statistics(const Layer &l, const Parts &parts, Norm &norm) {
  const double pixels = static_cast<double>(l.out_pixels());
  for_channels(l, [&](int c) {
    if (c >= l.out_channels) return clear_norm(norm, c);
    double total = 0.0, squares = 0.0;
    for (size_t i = 0; i < parts.pixels.size(); ++i) {
      const float *s = sum_at(parts, l, i, c);
      total += static_cast<double>(s[0]) * parts.pixels[i] + s[LANES];
    }
    const double mean = total / pixels;
    for (size_t i = 0; i < parts.pixels.size(); ++i) {
      const float *s = sum_at(parts, l, i, c);
      const double n = parts.pixels[i], sum = s[LANES], offset = s[0] + sum / n - mean;
      squares += s[2 * LANES] - sum * sum / n + n * offset * offset;
    }
    squares = squares < 0.0 ? 0.0 : squares;  // a NaN stays one
    set_norm(l, norm, c, mean, squares / pixels);
    // The framework keeps the unbiased variance; of a single pixel it is not a number there either. A sum of two
    // products, because a difference of two infinities would be no number.
    auto follow = [&](float &moving, double value) {
      moving = (1.0f - l.momentum) * moving + l.momentum * static_cast<float>(value);
    };
    follow(l.moving_mean[c], mean);
    follow(l.moving_variance[c], squares / (pixels - 1.0));
  });
}

void use_moving_statistics(const Layer &l, Norm &norm) {
  for_channels(l, [&](int c) {
    if (c >= l.out_channels) return clear_norm(norm, c);
    set_norm(l, norm, c, l.moving_mean[c], l.moving_variance[c]);
  });
}

// The batch normalisation's own gradients, and the coefficients that turn the gradient behind it into that before it.
void close_norm(const Layer &l, const Parts &parts, const Norm &norm, bool batch_statistics, float *gamma, float *beta,
                float *a, float *b, float *c) {
  const double pixels = static_cast<double>(l.out_pixels());
  for_channels(l, [&](int channel) {
    double sum = 0.0, products = 0.0;
    for (size_t i = 0; i < parts.pixels.size(); ++i) {
      const float *s = sum_at(parts, l, i, channel);
      sum += s[0];
      products += s[LANES];
    }
    const double inverse = norm.inverse_deviation[channel], scale = norm.scale[channel];
    if (channel < l.out_channels) {
      gamma[channel] = static_cast<float>(products * inverse);
      beta[channel] = static_cast<float>(sum);
    }
    a[channel] = norm.scale[channel];
    const double slope = batch_statistics ? -scale * inverse * inverse * products / pixels : 0.0;
    b[channel] = static_cast<float>(slope);
    c[channel] = batch_statistics ? static_cast<float>(-scale * sum / pixels - slope * norm.mean[channel]) : 0.0f;
  });
}

}  // namespace

Chain::Chain(const int32_t *plan, int pictures, int height, int width) : batch_statistics(plan[0] != 0) {
  for (int i = 0; i < plan[1]; ++i) {
    const int32_t *p = plan + HEADER + i * FIELDS;
    Layer l = {};
    l.kind = static_cast<Kind>(p[0]);
    l.stride = p[1];
    l.activation = p[2] != 0;
    l.shortcut = p[3];
    l.in_channels = p[4];
    l.out_channels = p[5];
    l.pictures = pictures;
    l.height = height;
    l.width = width;
    l.out_height = height = (height - 1) / l.stride + 1;
    l.out_width = width = (width - 1) / l.stride + 1;
    layers.push_back(l);
  }
}

void Chain::bind(void *const *parameters, const float *constants) {
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

size_t Chain::stash_floats() const { return Stash(layers, nullptr).floats; }

void Chain::forward(const float *input, float *features, float *memory) const {
  Stash stash(layers, memory);
  if (stash.values[0] != nullptr)
    to_blocks(input, first().pictures, first().in_channels, first().in_pixels() / first().pictures, stash.values[0]);
  Parts parts;
  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer &l = layers[i];
    ::forward(l, stash.view(layers, i), input, stash.raw[i], parts);
    if (batch_statistics) {
      use_batch_statistics(l, parts, stash.norms[i]);
    } else {
      use_moving_statistics(l, stash.norms[i]);
    }
    if (l.shortcut >= 0)
      add({stash.raw[i], &stash.norms[i], l.activation}, stash.view(layers, l.shortcut), l.out_blocks(), l.out_pixels(),
          stash.values[i + 1]);
  }
  from_blocks(stash.view(layers, layers.size()), last().pictures, last().out_channels,
              last().out_pixels() / last().pictures, features);
}

void Chain::backward(const float *input, const float *memory, const float *features_gradient, float *const *weights,
                     float *const *gammas, float *const *betas, float *input_gradient) const {
  const Stash stash(layers, const_cast<float *>(memory));
  // Three gradients are alive at a time: that of a wide (activated 1x1 or full) layer, of a depthwise one, and of a
  // block's output, which a shortcut needs until the block's input is reached.
  auto purpose = [&](const Layer &l) {
    return l.kind == Kind::depthwise ? Purpose::depthwise_gradients
           : l.activation            ? Purpose::wide_gradients
                                     : Purpose::narrow_gradients;
  };
  size_t most[static_cast<int>(Purpose::count)] = {};
  int widest = 0;
  for (const Layer &l : layers) {
    size_t &floats = most[static_cast<int>(purpose(l))];
    floats = std::max(floats, l.out_floats());
    widest = std::max(widest, l.out_blocks() * LANES);
  }
  auto gradient_of = [&](int layer) {
    const Purpose p = purpose(layers[layer]);
    return shared_scratch(p, most[static_cast<int>(p)]);
  };
  auto producer_of = [&](int layer) -> Producer {
    if (layer < 0) return {nullptr, nullptr, false};
    return {stash.raw[layer], &stash.norms[layer], layers[layer].activation};
  };
  std::vector<float> coefficients(3 * widest);
  float *a = coefficients.data(), *b = a + widest, *c = b + widest;
  std::vector<const float *> shortcut_gradients(layers.size() + 1, nullptr);
  Parts parts;

  const int count = static_cast<int>(layers.size());
  float *gradient = gradient_of(count - 1);
  to_blocks(features_gradient, last().pictures, last().out_channels, last().out_pixels() / last().pictures, gradient);
  close_activation(last(), producer_of(count - 1), gradient, parts);
  for (int i = count - 1; i >= 0; --i) {
    const Layer &l = layers[i];
    close_norm(l, parts, stash.norms[i], batch_statistics, gammas[i], betas[i], a, b, c);
    if (l.shortcut >= 0) shortcut_gradients[l.shortcut] = gradient;
    const RawGradient raw = {gradient, stash.raw[i], a, b, c};
    float *next = nullptr;
    if (i > 0) {
      next = gradient_of(i - 1);
    } else if (l.kind == Kind::full && input_gradient != nullptr) {
      image_gradient(l, raw, input_gradient);
    } else if (input_gradient != nullptr) {
      next = shared_scratch(Purpose::values, l.in_floats());
    }
    ::backward(l, stash.view(layers, i), input, raw, producer_of(i - 1), shortcut_gradients[i], weights[i], next,
               parts);
    gradient = next;
  }
  if (gradient != nullptr)
    from_blocks({gradient, nullptr, false}, first().pictures, first().in_channels,
                first().in_pixels() / first().pictures, input_gradient);
}
