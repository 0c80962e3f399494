// How a tensor's work is cut into tasks: by sizes alone, so that no result depends on the number of threads.
#pragma once

#include <algorithm>
#include <cstddef>

#include "gemm.h"

// A kernel is cut into at least so many tasks where its sizes allow it.
constexpr int MIN_TASKS = 32;

constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

// Pixels cut into equal parts of whole groups of rows (see gemm.h), and these into equal tiles.
struct PixelParts {
  static constexpr int UNIT = MR<MAX_NR>;
  static constexpr size_t FEWEST = 24, ENOUGH = 96;  // pixels of a part, of few and of many pixels
  size_t pixels, units;
  int parts;

  PixelParts(size_t pixels, int most_parts)
      : pixels(pixels),
        units((pixels + UNIT - 1) / UNIT),
        parts(static_cast<int>(std::clamp<size_t>(pixels / std::clamp(pixels / 8, FEWEST, ENOUGH), 1, most_parts))) {}
  size_t first_pixel(int part) const { return std::min(pixels, units * part / parts * UNIT); }
  int pixels_of(int part) const { return static_cast<int>(first_pixel(part + 1) - first_pixel(part)); }
  // f(first pixel, pixels, pixels of the tile behind it, whether it is the part's first) for every tile of the part.
  template <class F> void for_tiles(int part, F &&f) const {
    const size_t first = first_pixel(part), last = first_pixel(part + 1);
    const int count = static_cast<int>(last - first), tiles = divide_up(count, MAX_TILE);
    const int tile = divide_up(divide_up(count, tiles), UNIT) * UNIT;
    const auto pixels_at = [&](size_t p) { return p < last ? static_cast<int>(std::min<size_t>(tile, last - p)) : 0; };
    for (size_t p = first; p < last; p += tile) f(p, pixels_at(p), pixels_at(p + tile), p == first);
  }
};

// Vectors of channels cut into groups of whole panels (see for_panels), three vectors or more each, so that `parts`
// times the groups are at least `wanted` tasks.
struct ChannelGroups {
  int vectors, groups;

  ChannelGroups(int vectors, int parts, int wanted = MIN_TASKS)
      : vectors(vectors), groups(std::clamp(divide_up(wanted, parts), 1, std::max(1, vectors / 3))) {}
  int first(int group) const { return group == groups ? vectors : vectors * group / groups / 3 * 3; }
};
