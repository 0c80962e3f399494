// What a task will read next, asked for while it computes: a training step reads its tensors from memory, and waiting
// for them takes as long as the arithmetic.
#pragma once

#include "layer.h"

// A pixel's block is a cache line.
ALWAYS_INLINE void prefetch(const float *line) { __builtin_prefetch(line, 0, 2); }

// Lines that are asked for a few at a time, between pieces of a matrix product: many at once would wait for each other.
class Prefetcher {
 public:
  // The first `count` pixels of the first blocks of a tensor; there may be none.
  void add(ConstBlockedTensor tensor, int blocks, int count) {
    if (!tensor || blocks == 0 || count == 0) return;
    streams_[last_++] = {tensor.data, tensor.stride * LANES, blocks, count};
    lines_ += blocks * count;
  }
  // Spreads all that was added over `steps` calls of step().
  void start(int steps) { per_step_ = steps > 0 ? (lines_ + steps - 1) / steps : 0; }
  ALWAYS_INLINE void step() {
    for (int i = 0; i < per_step_ && first_ < last_; ++i) next();
  }

 private:
  struct Stream {
    const float *data;
    size_t stride;
    int blocks, count;
  };

  ALWAYS_INLINE void next() {
    Stream &s = streams_[first_];
    prefetch(s.data + pixel_ * LANES);
    if (++pixel_ < s.count) return;
    pixel_ = 0;
    s.data += s.stride;
    if (--s.blocks == 0) ++first_;
  }

  Stream streams_[4];
  int first_ = 0, last_ = 0, lines_ = 0, per_step_ = 0;
  int pixel_ = 0;
};
