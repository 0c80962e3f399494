// Scratch memory for the kernels, and aligned memory to keep.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

struct FreeMemory {
  void operator()(float *memory) const { std::free(memory); }
};
using AlignedFloats = std::unique_ptr<float, FreeMemory>;

// At least `floats` floats, aligned to cache lines, contents undefined. Throws std::bad_alloc.
AlignedFloats allocate_floats(size_t floats);

// The shared scratch memory: one place for each use, since these are in use at the same time.
enum class ScratchSlot { kernel, values, wide_gradients, depthwise_gradients, narrow_gradients, count };

// Memory of the calling thread, or of the operator that runs, kept for the next call: at least `floats` floats, aligned
// to cache lines, contents undefined. The next call for the same thread or slot invalidates it. Throws std::bad_alloc.
float *thread_scratch(size_t floats);
float *shared_scratch(ScratchSlot slot, size_t floats);

// Asks for huge pages under a large tensor: the page table walks of 4 KB pages cost several per cent of a step.
void prefer_huge_pages(void *data, size_t bytes);
