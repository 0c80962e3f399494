// Matrix products (GEMM) on tiles that stay in registers and the L2 cache.
//
// A tile holds up to MAX_TILE pixels of a tensor, blocks of sixteen channels one after the other: value (channel c,
// pixel t) stands at [c / 16][t][c % 16]. A weight matrix is packed into panels of NR vectors of output channels, each
// panel [input channel][output channel]. The accumulators of MR pixels (for weight gradients: input channels) times NR
// vectors stay in registers.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.h"

#if defined(__AVX512F__)
// 32 registers of a vector: 24 accumulators, the panel's vectors, and a broadcast value.
constexpr int MAX_NR = 3;
template <int NR> constexpr int MR = 24 / NR;
template <int NR> constexpr int GRADIENT_MR = NR == 1 ? 16 : 8;
#elif defined(__AVX__)
// 16 registers of half a vector: 12 accumulators, two of the panel, a broadcast value.
constexpr int MAX_NR = 1;
template <int NR> constexpr int MR = 6;
template <int NR> constexpr int GRADIENT_MR = 6;
#elif defined(__aarch64__)
// 32 registers of a quarter of a vector: 16 accumulators, four of the panel, broadcast values, for the compiler loads
// these early.
constexpr int MAX_NR = 1;
template <int NR> constexpr int MR = 4;
template <int NR> constexpr int GRADIENT_MR = 4;
#else
// 16 registers of a quarter of a vector, products and sums apart: 8 accumulators, four of the panel, two values.
constexpr int MAX_NR = 1;
template <int NR> constexpr int MR = 2;
template <int NR> constexpr int GRADIENT_MR = 2;
#endif

constexpr int MAX_TILE = 120;   // pixels; a multiple of every MR
constexpr int LARGEST_MR = 24;  // gemm reads and computes up to so many pixels beyond a tile's last

template <int N> using Constant = std::integral_constant<int, N>;

// Vectors in the next panel when `rest` are left; four are two and two, since a panel of one loads too much.
inline int panel_width(int rest) { return rest < MAX_NR ? rest : rest == 4 && MAX_NR == 3 ? 2 : MAX_NR; }

// Calls f(Constant<NR>, first vector) for every panel of a row of `vectors` vectors.
template <class F> ALWAYS_INLINE void for_panels(int vectors, F &&f) {
  for (int v = 0; v < vectors;) {
    const int width = panel_width(vectors - v);
    if (width == 1) f(Constant<1>{}, v);
    if constexpr (MAX_NR == 3) {
      if (width == 2) f(Constant<2>{}, v);
      if (width == 3) f(Constant<3>{}, v);
    }
    v += width;
  }
}

// Panels of weight(row k, output channel); `row` and `column` are its strides.
inline void pack_panels(const float *weight, int k, size_t row_stride, int channels, size_t column_stride, float *out) {
  for_panels(blocks_of(channels), [&](auto width, int first) {
    constexpr int N = decltype(width)::value * LANES;
    float *panel = out + static_cast<size_t>(first) * LANES * k;
    const int start = first * LANES;
    for (int j = 0; j < N; ++j) {
      const float *in = weight + (start + j) * column_stride;
      const bool inside = start + j < channels;
      for (int i = 0; i < k; ++i) panel[static_cast<size_t>(i) * N + j] = inside ? in[i * row_stride] : 0.0f;
    }
  });
}

// The sums of one vector of output channels, a row each.
template <int N> struct Column {
  static constexpr int ROWS = N;
  Vec at[N];
};
template <int ROWS, int NR> using Accumulators = Column<ROWS>[NR];

template <int ROWS, int NR>
ALWAYS_INLINE void multiply_add(const float *a, size_t a_stride, const float *b, size_t b_stride,
                                Column<ROWS> (&sums)[NR]) {
  Vec row[NR];
#pragma GCC unroll 4
  for (int v = 0; v < NR; ++v) row[v] = load(b + v * b_stride);
#pragma GCC unroll 24
  for (int r = 0; r < ROWS; ++r) {
    const float value = a[r * a_stride];
#pragma GCC unroll 4
    for (int v = 0; v < NR; ++v) sums[v].at[r] = multiply_add(value, row[v], sums[v].at[r]);
  }
}

struct Nothing {
  ALWAYS_INLINE void operator()() const {}
};

// For each panel of `vectors` vectors and each group of rows of the tile `a` (`k` channels, `tile` pixels apart):
// finish(first pixel, vector, column) gets the sums over k of a[pixel][k] * b[k][output channel]. The last group
// may reach beyond `rows`: those sums mean nothing, but the tile's memory must reach as far. Groups have LESS rows less
// than fit the registers. step() is called gemm_steps times, evenly over all the time that this takes.
template <int LESS = 0, class Finish, class Step = Nothing>
inline void gemm(const float *a, size_t tile, int rows, const float *b, int k, int vectors, Finish &&finish,
                 Step &&step = {}) {
  for_panels(vectors, [&](auto width, int first) {
    constexpr int NR = decltype(width)::value, ROWS = MR<NR> - LESS;
    for (int row = 0; row < rows; row += ROWS) {
      Accumulators<ROWS, NR> sums = {};
      const float *x = a + row * LANES, *w = b + static_cast<size_t>(first) * LANES * k;
      int rest = k;
      for (; rest >= LANES; rest -= LANES, x += tile * LANES) {
        step();
#pragma GCC unroll 4
        for (int j = 0; j < LANES; ++j, w += NR * LANES) multiply_add(x + j, LANES, w, LANES, sums);
      }
      for (int j = 0; j < rest; ++j, w += NR * LANES) multiply_add(x + j, LANES, w, LANES, sums);
#pragma GCC unroll 4
      for (int v = 0; v < NR; ++v) finish(row, first + v, sums[v]);
    }
  });
}

// The same with one row less in each group if that makes no more groups: 49 pixels, an image of 7x7, are seven sevens.
template <class Finish>
inline void gemm_few_rows(const float *a, size_t tile, int rows, const float *b, int k, int vectors, Finish &&finish) {
  constexpr int ROWS = MR<MAX_NR>;
  if (rows <= (rows + ROWS - 1) / ROWS * (ROWS - 1)) {
    gemm<1>(a, tile, rows, b, k, vectors, finish);
  } else {
    gemm(a, tile, rows, b, k, vectors, finish);
  }
}

inline int gemm_steps(int rows, int k, int vectors) {
  int steps = 0;
  for_panels(vectors, [&](auto width, int) {
    constexpr int ROWS = MR<decltype(width)::value>;
    steps += (rows + ROWS - 1) / ROWS * (k / LANES);
  });
  return steps;
}

// Calls f(Constant<ROWS>, first row) for groups of at most SIZE of the rows 0 ... k - 1, within blocks of sixteen.
template <int SIZE, class F> ALWAYS_INLINE void for_row_groups(int k, F &&f) {
  constexpr int GROUPS = (LANES + SIZE - 1) / SIZE, LARGER = LANES % GROUPS, ROWS = LANES / GROUPS;
  for (int block = 0; block < k; block += LANES) {
    int row = block;
    if constexpr (LARGER > 0)
      for (int i = 0; i < LARGER && row < k; ++i, row += ROWS + 1) f(Constant<ROWS + 1>{}, row);
    for (int i = LARGER; i < GROUPS && row < k; ++i, row += ROWS) f(Constant<ROWS>{}, row);
  }
}

// Adds to `gradient` [input channel][output channel], `vectors` vectors a row, the sums over the pixels of the tiles
// x (k input channels) and d. Rows beyond k up to the next multiple of sixteen are written too, and mean nothing.
// step() is called weight_gradient_steps times, evenly over all the time that this takes.
template <class Step = Nothing>
inline void add_weight_gradient(const float *x, const float *d, int tile, int pixels, int k, int vectors,
                                float *gradient, bool first_tile, Step &&step = {}) {
  for_panels(vectors, [&](auto width, int first) {
    constexpr int NR = decltype(width)::value;
    for_row_groups<GRADIENT_MR<NR>>(k, [&](auto rows, int row) {
      constexpr int ROWS = decltype(rows)::value;
      const float *a = x + static_cast<size_t>(row / LANES) * tile * LANES + row % LANES;
      const float *b = d + static_cast<size_t>(first) * tile * LANES;
      float *out = gradient + (static_cast<size_t>(row) * vectors + first) * LANES;
      Accumulators<ROWS, NR> sums = {};
      for (int rest = pixels; rest > 0; rest -= LANES) {
        step();
        for (int p = std::min(rest, LANES); p > 0; --p, a += LANES, b += LANES)
          multiply_add(a, 1, b, static_cast<size_t>(tile) * LANES, sums);
      }
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NR; ++v) {
          float *sum = out + (static_cast<size_t>(r) * vectors + v) * LANES;
          store(sum, first_tile ? sums[v].at[r] : sums[v].at[r] + load(sum));
        }
    });
  });
}

inline int weight_gradient_steps(int pixels, int k, int vectors) {
  int steps = 0;
  for_panels(vectors, [&](auto width, int) {
    for_row_groups<GRADIENT_MR<decltype(width)::value>>(k, [&](auto, int) { steps += (pixels + LANES - 1) / LANES; });
  });
  return steps;
}
