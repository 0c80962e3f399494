// What a computation gives must not depend on the number of threads.
#pragma once

#include <cstring>
#include <vector>

#include "checks.h"
#include "thread_pool.h"

inline bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// Computes and checks `first` on one thread; compare(again) gets what copies of it compute on more.
template <class Run, class Compare> void check_on_threads(Run &first, Compare &&compare) {
  set_thread_count(1);
  first.compute();
  first.check();
  for (const int threads : {2, 3, 8, 64}) {
    if (THREAD_SANITIZER && threads > 8) continue;
    set_thread_count(threads);
    Run again = first;
    again.compute();
    compare(again);
  }
}
