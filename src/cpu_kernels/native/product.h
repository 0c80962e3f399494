// Matrix products on tiles that stay in registers and the L2 cache.
//
// A tile holds up to TILE pixels of a tensor, blocks of sixteen channels one after the other: value (channel c, pixel
// t) stands at [c / 16][t][c % 16]. A weight matrix is cut into panels of one to three vectors of output channels,
// each panel [input channel][output channel].
#pragma once

#include "simd.h"

#if defined(__AVX512F__)
// 32 registers: 24 sums, the panel's vectors, and the broadcast value.
constexpr int MAX_PANEL = 3;
template <int V> constexpr int ROWS = 24 / V;
template <int V> constexpr int GRADIENT_ROWS = V == 1 ? 16 : 8;
#else
// 16 registers of half the width: 6 sums of two registers each.
constexpr int MAX_PANEL = 1;
template <int V> constexpr int ROWS = 6;
template <int V> constexpr int GRADIENT_ROWS = 4;
#endif

constexpr int MAX_TILE = 96;  // a multiple of every ROWS

// Vectors in the next panel when `rest` are left; four are two and two, since a panel of one loads too much.
inline int panel_width(int rest) { return rest < MAX_PANEL ? rest : rest == 4 && MAX_PANEL == 3 ? 2 : MAX_PANEL; }

// Calls f(integral constant V, first vector) for every panel of a row of `vectors` vectors.
template <int V> struct Width { static constexpr int value = V; };
template <class F> void for_panels(int vectors, F &&f) {
  for (int v = 0; v < vectors;) {
    const int width = panel_width(vectors - v);
    if (width == 1) f(Width<1>{}, v);
    if constexpr (MAX_PANEL == 3) {
      if (width == 2) f(Width<2>{}, v);
      if (width == 3) f(Width<3>{}, v);
    }
    v += width;
  }
}

template <int R, int V> struct Sums { Vec at[R][V]; };

template <int R, int V> inline void add_product(Sums<R, V> &sums, const float *a, const float *b) {
  Vec row[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) row[v] = load(b + v * LANES);
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums.at[r][v] += a[r * LANES] * row[v];
}

// For each panel of `vectors` vectors and each group of rows of the tile `a` (`k` channels, `tile` pixels apart):
// finish(first pixel, first vector, sums) gets the sums over k of a[pixel][k] * b[k][output channel]. The last group
// may reach beyond `rows`: those sums mean nothing, but the tile's memory must reach as far.
template <class Finish>
inline void product(const float *a, size_t tile, int rows, const float *b, int k, int vectors, Finish &&finish) {
  for_panels(vectors, [&](auto width, int first) {
    constexpr int V = decltype(width)::value, R = ROWS<V>;
    for (int row = 0; row < rows; row += R) {
      Sums<R, V> sums = {};
      const float *x = a + row * LANES, *w = b + static_cast<size_t>(first) * LANES * k;
      int rest = k;
      for (; rest >= LANES; rest -= LANES, x += tile * LANES)
#pragma GCC unroll 4
        for (int j = 0; j < LANES; ++j, w += V * LANES) add_product(sums, x + j, w);
      for (int j = 0; j < rest; ++j, w += V * LANES) add_product(sums, x + j, w);
      finish(row, first, sums);
    }
  });
}

// Adds to `gradient` [input channel][output channel], `vectors` vectors a row, the sums over the pixels of the tiles
// x (k input channels) and d. Rows beyond k up to the next multiple of sixteen are written too, and mean nothing.
inline void add_weight_gradient(const float *x, const float *d, int tile, int pixels, int k, int vectors,
                                float *gradient, bool first_tile) {
  for_panels(vectors, [&](auto width, int first) {
    constexpr int V = decltype(width)::value, R = GRADIENT_ROWS<V>;
    for (int row = 0; row < k; row += R) {
      const float *a = x + static_cast<size_t>(row / LANES) * tile * LANES + row % LANES;
      const float *b = d + static_cast<size_t>(first) * tile * LANES;
      float *out = gradient + (static_cast<size_t>(row) * vectors + first) * LANES;
      Sums<R, V> sums = {};
      if (!first_tile) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums.at[r][v] = load(out + (static_cast<size_t>(r) * vectors + v) * LANES);
      }
      for (int p = 0; p < pixels; ++p, a += LANES, b += LANES) {
        Vec grad[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) grad[v] = load(b + static_cast<size_t>(v) * tile * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums.at[r][v] += a[r] * grad[v];
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(out + (static_cast<size_t>(r) * vectors + v) * LANES, sums.at[r][v]);
    }
  });
}
