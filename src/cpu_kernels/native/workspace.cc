#include "workspace.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace {

constexpr size_t CACHE_LINE = 64, HUGE_PAGE = size_t{1} << 21;

class Scratch {
 public:
  float *get(size_t floats) {
    if (floats > floats_) {
      floats_ = 0;
      data_.reset();  // before the larger memory is asked for
      data_ = allocate_floats(floats);
      floats_ = floats;
    }
    return data_.get();
  }

 private:
  AlignedFloats data_;
  size_t floats_ = 0;
};

}  // namespace

AlignedFloats allocate_floats(size_t floats) {
  const size_t alignment = floats * sizeof(float) < HUGE_PAGE ? CACHE_LINE : HUGE_PAGE;
  const size_t bytes = (floats * sizeof(float) + alignment - 1) / alignment * alignment;
  AlignedFloats memory(static_cast<float *>(std::aligned_alloc(alignment, bytes)));
  if (memory == nullptr) throw std::bad_alloc();
  prefer_huge_pages(memory.get(), bytes);
  return memory;
}

float *thread_scratch(size_t floats) {
  static thread_local Scratch scratch;
  return scratch.get(floats);
}

float *shared_scratch(ScratchSlot slot, size_t floats) {
  // Never destroyed: the process may exit while an operator runs.
  static auto *const scratch = new Scratch[static_cast<size_t>(ScratchSlot::count)];
  return scratch[static_cast<size_t>(slot)].get(floats);
}

void prefer_huge_pages(void *data, size_t bytes) {
  const auto start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (start + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  const uintptr_t last = (start + bytes) / HUGE_PAGE * HUGE_PAGE;
  if (last > first) madvise(static_cast<char *>(data) + (first - start), last - first, MADV_HUGEPAGE);
}
