// Sixteen floats at a time, through the compiler's vector extension: one AVX-512 register, two of AVX2, four of SSE or
// NEON. Every tensor inside the accelerated region is cut into blocks of sixteen channels, so that all kernels run
// over whole vectors whatever the picture size.
#pragma once

#include <cstddef>

constexpr int LANES = 16;

using Vec = float __attribute__((vector_size(64)));
using UnalignedVec = float __attribute__((vector_size(64), aligned(4), may_alias));

inline Vec load(const float *p) { return *reinterpret_cast<const UnalignedVec *>(p); }
inline void store(float *p, Vec v) { *reinterpret_cast<UnalignedVec *>(p) = v; }
inline Vec splat(float x) { return x - Vec{}; }

// NaN becomes 0, as in the framework's ReLU6: the comparison is false for it.
inline Vec relu6(Vec x) {
  x = x > 0.0f ? x : Vec{};
  return x < 6.0f ? x : splat(6.0f);
}

// The gradient of ReLU6 at x times g; the framework counts x = 6 as inside and x = 0 as outside.
inline Vec relu6_gradient(Vec x, Vec g) { return (x > 0.0f) & (x <= 6.0f) ? g : Vec{}; }

inline int blocks_of(int channels) { return (channels + LANES - 1) / LANES; }
