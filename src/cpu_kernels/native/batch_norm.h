// Batch normalisation is never a pass of its own: here are the loads that apply it, and the sums that stores take.
#pragma once

#include <cstring>

#include "prefetch.h"

// relu6(scale * y + shift) of `count` pixels of one block. PREFETCH_NEXT: asks for as many behind them, too.
template <bool PREFETCH_NEXT = false>
inline void load_value(const Activations &value, int block, size_t first, size_t count, float *out) {
  const float *in = value.raw.at(block, first);
  if (value.norm.scale == nullptr) {
    std::memcpy(out, in, count * LANES * sizeof(float));
    return;
  }
  const Vec scale = load(value.norm.scale + block * LANES), shift = load(value.norm.shift + block * LANES);
  if (value.activation) {
    for (size_t i = 0; i < count * LANES; i += LANES) {
      if (PREFETCH_NEXT) prefetch(in + i + count * LANES);
      store(out + i, relu6(multiply_add(load(in + i), scale, shift)));
    }
  } else {
    for (size_t i = 0; i < count * LANES; i += LANES) store(out + i, multiply_add(load(in + i), scale, shift));
  }
}

template <bool PREFETCH_NEXT = false>
inline void load_gradient(const RawGradient &gradient, int block, size_t first, size_t count, float *out) {
  const float *g = gradient.gradient.at(block, first), *y = gradient.raw.at(block, first);
  const Vec a = load(gradient.a + block * LANES), b = load(gradient.b + block * LANES);
  const Vec c = load(gradient.c + block * LANES);
  for (size_t i = 0; i < count * LANES; i += LANES) {
    if (PREFETCH_NEXT) {
      prefetch(g + i + count * LANES);
      prefetch(y + i + count * LANES);
    }
    store(out + i, multiply_add(a, load(g + i), multiply_add(b, load(y + i), c)));
  }
}

// The running sums of one channel block, or, with T = Register, of a part of it.
template <class T> struct Moments {
  T pivot = {}, sum = {}, squares = {};

  // Infinity minus infinity would be no number: from there on values are summed as they are.
  ALWAYS_INLINE void set_pivot(T y) { pivot = finite_or_zero(y); }
  ALWAYS_INLINE void add(T y) {
    const T d = y - pivot;
    sum += d;
    squares = multiply_add(d, d, squares);
  }
  ALWAYS_INLINE void read(const float *p) {
    load(p, pivot);
    load(p + LANES, sum);
    load(p + 2 * LANES, squares);
  }
  ALWAYS_INLINE void write(float *p) const {
    store(p, pivot);
    store(p + LANES, sum);
    store(p + 2 * LANES, squares);
  }
};

template <class T> struct GradientSums {
  T sum = {}, products = {};

  ALWAYS_INLINE void read(const float *p) {
    load(p, sum);
    load(p + LANES, products);
  }
  ALWAYS_INLINE void write(float *p) const {
    store(p, sum);
    store(p + LANES, products);
  }
};

// What a layer's input gradient goes through on its way to memory, for one channel block or a part of it that starts
// at `lane`: the ReLU6 of the producer (there may be none: `producer.raw`), and the sums of its batch normalisation.
template <class T> class BackwardEpilogue {
 public:
  ALWAYS_INLINE explicit BackwardEpilogue(const Activations &producer, int block, int lane = 0) {
    if (!producer.raw) return;
    y_ = producer.raw.at(block, 0) + lane;
    activation_ = producer.activation;
    load(producer.norm.scale + block * LANES + lane, scale_);
    load(producer.norm.shift + block * LANES + lane, shift_);
    load(producer.norm.mean + block * LANES + lane, mean_);
  }
  ALWAYS_INLINE T operator()(T g, size_t pixel, GradientSums<T> &sums) const {
    if (y_ == nullptr) return g;
    T raw;
    load(y_ + pixel * LANES, raw);
    if (activation_) g = relu6_gradient(multiply_add(raw, scale_, shift_), g);
    sums.sum += g;
    sums.products = multiply_add(g, raw - mean_, sums.products);
    return g;
  }

 private:
  T scale_ = {}, shift_ = {}, mean_ = {};
  const float *y_ = nullptr;
  bool activation_ = false;
};

// Sets scale and shift from the moments of the batch, and moves the moving statistics towards them.
void use_batch_statistics(const Layer &layer, const PartialSums &moments, const Norm &norm);
void use_moving_statistics(const Layer &layer, const Norm &norm);

// The sums of a gradient behind the layer's batch normalisation and ReLU6, whose raw output is `y`, cut to the gradient
// before the ReLU6 in place.
void start_backward(const Layer &layer, const Activations &y, BlockedTensor gradient, PartialSums &sums);

// The batch normalisation's own gradients, and the coefficients that turn the gradient behind it into that before it.
void batch_norm_backward(const Layer &layer, const PartialSums &sums, const ConstNorm &norm, bool batch_statistics,
                         float *gamma, float *beta, float *a, float *b, float *c);
