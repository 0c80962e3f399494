// Sixteen floats at a time on every processor: one AVX-512 register, two of AVX2, four of SSE or NEON. Every tensor
// inside the accelerated region is cut into blocks of sixteen channels, so that all kernels run over whole vectors
// whatever the image size.
//
// A register is the compiler's vector extension, of the width that the processor has: wider ones are kept in memory by
// g++. A vector of several registers is a pair of its halves. A product that is added is written as one expression,
// `multiply_add`, since clang fuses the two only within one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))

constexpr int LANES = 16;

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64;
#elif defined(__AVX__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif

using Register = float __attribute__((vector_size(REGISTER_BYTES)));

// Loads and stores of any alignment: a copy, for a pointer to a less aligned vector type is taken for an aligned one by
// some compilers.
ALWAYS_INLINE void load(const float *p, Register &out) { std::memcpy(&out, p, sizeof out); }
ALWAYS_INLINE void store(float *p, Register v) { std::memcpy(p, &v, sizeof v); }
ALWAYS_INLINE Register multiply_add(Register a, Register b, Register c) { return a * b + c; }
ALWAYS_INLINE Register multiply_add(float a, Register b, Register c) { return a * b + c; }
// NaN becomes 0, as in the framework's ReLU6: the comparison is false for it. x86 has this very choice as one
// instruction, which g++ does not find by itself.
ALWAYS_INLINE Register relu6(Register x) {
  const Register zero = {}, six = 6.0f - zero;
#if defined(__AVX512F__)
  constexpr __mmask16 all = 0xffff;  // without it g++ 12 warns of a value in its own header
  return _mm512_maskz_min_ps(all, _mm512_maskz_max_ps(all, x, zero), six);
#elif defined(__AVX__)
  return _mm256_min_ps(_mm256_max_ps(x, zero), six);
#elif defined(__SSE2__)
  return _mm_min_ps(_mm_max_ps(x, zero), six);
#else
  x = x > zero ? x : zero;
  return x < six ? x : six;
#endif
}
// The gradient of ReLU6 at x times g; the framework counts x = 6 as inside and x = 0 as outside.
ALWAYS_INLINE Register relu6_gradient(Register x, Register g) {
  g = x > 0.0f ? g : Register{};
  return x <= 6.0f ? g : Register{};
}
// Infinity and NaN become 0.
ALWAYS_INLINE Register finite_or_zero(Register x) { return x - x == 0.0f ? x : Register{}; }

template <class Half> struct Pair {
  Half low, high;

  ALWAYS_INLINE friend Pair operator+(const Pair &a, const Pair &b) { return {a.low + b.low, a.high + b.high}; }
  ALWAYS_INLINE friend Pair operator-(const Pair &a, const Pair &b) { return {a.low - b.low, a.high - b.high}; }
  ALWAYS_INLINE friend Pair operator*(const Pair &a, const Pair &b) { return {a.low * b.low, a.high * b.high}; }
  ALWAYS_INLINE Pair &operator+=(const Pair &other) { return *this = *this + other; }
};

template <class Half> ALWAYS_INLINE void load(const float *p, Pair<Half> &out) {
  load(p, out.low);
  load(p + sizeof(Half) / sizeof(float), out.high);
}
template <class Half> ALWAYS_INLINE void store(float *p, const Pair<Half> &v) {
  store(p, v.low);
  store(p + sizeof(Half) / sizeof(float), v.high);
}
template <class Half>
ALWAYS_INLINE Pair<Half> multiply_add(const Pair<Half> &a, const Pair<Half> &b, const Pair<Half> &c) {
  return {multiply_add(a.low, b.low, c.low), multiply_add(a.high, b.high, c.high)};
}
template <class Half> ALWAYS_INLINE Pair<Half> multiply_add(float a, const Pair<Half> &b, const Pair<Half> &c) {
  return {multiply_add(a, b.low, c.low), multiply_add(a, b.high, c.high)};
}
template <class Half> ALWAYS_INLINE Pair<Half> relu6(const Pair<Half> &x) { return {relu6(x.low), relu6(x.high)}; }
template <class Half> ALWAYS_INLINE Pair<Half> relu6_gradient(const Pair<Half> &x, const Pair<Half> &g) {
  return {relu6_gradient(x.low, g.low), relu6_gradient(x.high, g.high)};
}
template <class Half> ALWAYS_INLINE Pair<Half> finite_or_zero(const Pair<Half> &x) {
  return {finite_or_zero(x.low), finite_or_zero(x.high)};
}

#if defined(__AVX512F__)
using Vec = Register;
#elif defined(__AVX__)
using Vec = Pair<Register>;
#else
using Vec = Pair<Pair<Register> >;
#endif
static_assert(sizeof(Vec) == LANES * sizeof(float));

ALWAYS_INLINE Vec load(const float *p) {
  Vec v;
  load(p, v);
  return v;
}

inline int blocks_of(int channels) { return (channels + LANES - 1) / LANES; }
