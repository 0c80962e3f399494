#include "folded.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <list>

#include "depthwise.h"
#include "span.h"
#include "thread_pool.h"
#include "workspace.h"

namespace {

constexpr size_t KEPT = 3;  // networks: the trained one, its EMA, and one more

// ---------------------------------------------------------------------------------------------------------------------
// Digest
// ---------------------------------------------------------------------------------------------------------------------

__extension__ using Wide = unsigned __int128;

inline uint64_t mix(uint64_t a, uint64_t b) {
  const Wide product = static_cast<Wide>(a ^ 0x9e3779b97f4a7c15) * (b ^ 0xbf58476d1ce4e5b9);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

using Bits = uint32_t __attribute__((vector_size(REGISTER_BYTES)));

// Every step is a one-to-one map of what came before, so that no single change is lost. Eight registers at a time, for
// a multiplication takes several cycles.
uint64_t digest(const Span &span) {
  constexpr size_t STATES = 8, BYTES = STATES * REGISTER_BYTES, BLOCK = BYTES / sizeof(float);
  Bits states[STATES] = {};
  const auto absorb = [&](const float *block) {
#pragma GCC unroll 8
    for (size_t i = 0; i < STATES; ++i) {
      Bits bits;
      std::memcpy(&bits, block + i * REGISTER_LANES, sizeof bits);
      bits = (bits ^ states[i]) * 0x9e3779b1u;
      states[i] = bits ^ bits >> 16;
    }
  };
  const size_t whole = span.size / BLOCK * BLOCK;
  for (size_t i = 0; i < whole; i += BLOCK) absorb(span.data + i);
  float rest[BLOCK] = {};
  std::copy(span.data + whole, span.data + span.size, rest);
  absorb(rest);
  uint64_t total = span.size, words[BYTES / sizeof(uint64_t)];
  std::memcpy(words, states, sizeof states);
  for (const uint64_t word : words) total = mix(total, word);
  return total;
}

uint64_t digest(const std::vector<Layer> &layers) {
  constexpr size_t LENGTH = size_t{1} << 15;
  uint64_t total = layers.size();
  std::vector<Span> spans;
  for (const Layer &l : layers) {
    const size_t channels = l.out_channels, weights = channels * l.taps();
    for (size_t i = 0; i < weights; i += LENGTH) spans.push_back({l.weight + i, std::min(LENGTH, weights - i)});
    for (const float *array :
         {l.gamma, l.beta, static_cast<const float *>(l.moving_mean), static_cast<const float *>(l.moving_variance)})
      spans.push_back({array, channels});
    spans.push_back({&l.epsilon, 1});
    total = mix(total ^ static_cast<uint64_t>(l.kind), channels << 32 ^ l.in_channels);
  }
  std::vector<uint64_t> digests(spans.size());
  parallel(static_cast<int>(spans.size()), [&](int i) { digests[i] = digest(spans[i]); });
  for (const uint64_t d : digests) total = mix(total, d);
  return total;
}

// ---------------------------------------------------------------------------------------------------------------------
// Folding
// ---------------------------------------------------------------------------------------------------------------------

size_t folded_floats(const Layer &l) { return static_cast<size_t>(l.taps() + 1) * l.out_blocks() * LANES; }

FoldedLayer fold(const Layer &l, float *weights) {
  const int channels = l.out_blocks() * LANES, k = l.taps();
  float *bias = weights + static_cast<size_t>(k) * channels, *scale = thread_scratch(channels);
  for (int c = 0; c < channels; ++c) {
    scale[c] = bias[c] = 0.0f;
    if (c >= l.out_channels) continue;
    scale[c] = static_cast<float>(l.gamma[c] / std::sqrt(static_cast<double>(l.moving_variance[c]) + l.epsilon));
    bias[c] = l.beta[c] - l.moving_mean[c] * scale[c];
  }
  if (l.kind == Kind::depthwise) {
    for (int block = 0; block < l.out_blocks(); ++block) {
      float *taps = weights + static_cast<size_t>(block) * TAPS * LANES;
      load_taps(l, block, taps);
      for (int t = 0; t < TAPS; ++t) store(taps + t * LANES, load(taps + t * LANES) * load(scale + block * LANES));
    }
    return {weights, bias};
  }
  pack_panels(l.weight, k, 1, l.out_channels, k, weights);
  for_panels(l.out_blocks(), [&](auto width, int first) {
    constexpr int NR = decltype(width)::value;
    float *panel = weights + static_cast<size_t>(first) * LANES * k;
    for (int i = 0; i < k; ++i)
      for (int v = 0; v < NR; ++v, panel += LANES) store(panel, load(panel) * load(scale + (first + v) * LANES));
  });
  return {weights, bias};
}

struct FoldedNetwork {
  uint64_t parameters;  // their digest
  std::vector<FoldedLayer> layers;
  AlignedFloats memory;
};

FoldedNetwork fold(const std::vector<Layer> &layers, uint64_t parameters) {
  std::vector<size_t> places = {0};
  for (const Layer &l : layers) places.push_back(places.back() + folded_floats(l));
  FoldedNetwork folded = {parameters, std::vector<FoldedLayer>(layers.size()), allocate_floats(places.back())};
  parallel(static_cast<int>(layers.size()),
           [&](int i) { folded.layers[i] = fold(layers[i], folded.memory.get() + places[i]); });
  return folded;
}

}  // namespace

const std::vector<FoldedLayer> &folded_layers(const std::vector<Layer> &layers) {
  static std::list<FoldedNetwork> networks;  // the one used last comes first
  const uint64_t parameters = digest(layers);
  const auto found = std::find_if(networks.begin(), networks.end(),
                                  [&](const FoldedNetwork &network) { return network.parameters == parameters; });
  if (found != networks.end()) {
    networks.splice(networks.begin(), networks, found);
  } else {
    networks.push_front(fold(layers, parameters));
    if (networks.size() > KEPT) networks.pop_back();
  }
  return networks.front().layers;
}
