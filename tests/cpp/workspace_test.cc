// Scratch memory is aligned, and what cannot be had is an exception, each time.
#include "workspace.h"

#include <algorithm>
#include <cstdint>
#include <new>

#include "checks.h"

// Memory that cannot be had is to be null under a sanitizer, too.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): the names that the sanitizers look for.
extern "C" const char *__asan_default_options() { return "allocator_may_return_null=1"; }
extern "C" const char *__tsan_default_options() { return "allocator_may_return_null=1"; }
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

int main() {
  limit_time();
  for (const size_t floats : {size_t{1}, size_t{100000}, size_t{3000000}}) {
    for (float *scratch : {thread_scratch(floats), shared_scratch(ScratchSlot::kernel, floats)}) {
      CHECK(reinterpret_cast<uintptr_t>(scratch) % 64 == 0);
      std::fill_n(scratch, floats, 1.0f);
    }
  }
  constexpr size_t TOO_MANY = size_t{1} << 50;
  for (int again = 0; again < 2; ++again) {
    CHECK_THROWS(std::bad_alloc, thread_scratch(TOO_MANY));
    CHECK_THROWS(std::bad_alloc, shared_scratch(ScratchSlot::kernel, TOO_MANY));
  }
  std::fill_n(thread_scratch(10), 10, 1.0f);
}
