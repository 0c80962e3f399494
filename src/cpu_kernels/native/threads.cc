#include "threads.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <thread>

namespace {

// Kernels follow one another within microseconds, so a short watch before sleeping saves most wake-ups; long enough to
// bridge that gap, short enough to be gone when the framework's operators want the core.
constexpr int SPINS = 2000;

constexpr size_t CACHE_LINE = 64, HUGE_PAGE = size_t{1} << 21;

struct Job {
  std::atomic<const std::function<void(int)> *> task{nullptr};  // null: closed, nobody may enter
  std::atomic<int> next{0};
  std::atomic<int> inside{0};
  std::atomic<uint32_t> number{0};
  int count = 0;
};

// Never destroyed: sleeping threads still refer to it while the process exits.
Job &job = *new Job;
std::atomic<int> threads_wanted{1};
int threads_started = 1;  // the caller is number 0

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

void take_tasks(const std::function<void(int)> &task) {
  for (int i = job.next.fetch_add(1); i < job.count; i = job.next.fetch_add(1)) task(i);
}

// A thread announces itself before it looks whether the job is open, and the owner closes the job before it waits for
// those inside: a thread that wakes up late finds the job closed, and nobody waits for it.
void work(int number, uint32_t seen) {
  for (;;) {
    for (int i = 0; i < SPINS && job.number.load() == seen; ++i) pause_briefly();
    job.number.wait(seen);
    seen = job.number.load();
    if (number >= threads_wanted) continue;
    job.inside.fetch_add(1);
    if (const auto *task = job.task.load()) take_tasks(*task);
    if (job.inside.fetch_sub(1) == 1) job.inside.notify_one();
  }
}

class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  float *get(size_t floats) {
    if (floats > floats_) {
      std::free(data_);
      floats_ = 0;
      const size_t alignment = floats * sizeof(float) < HUGE_PAGE ? CACHE_LINE : HUGE_PAGE;
      const size_t bytes = (floats * sizeof(float) + alignment - 1) / alignment * alignment;
      data_ = static_cast<float *>(std::aligned_alloc(alignment, bytes));
      if (data_ == nullptr) throw std::bad_alloc();
      prefer_huge_pages(data_, bytes);
      floats_ = bytes / sizeof(float);
    }
    return data_;
  }

 private:
  float *data_ = nullptr;
  size_t floats_ = 0;
};

}  // namespace

void parallel(int count, const std::function<void(int)> &task) {
  if (count <= 1 || threads_wanted <= 1) {
    for (int i = 0; i < count; ++i) task(i);
    return;
  }
  for (; threads_started < threads_wanted; ++threads_started)
    std::thread(work, threads_started, job.number.load()).detach();
  job.count = count;
  job.next.store(0);
  job.task.store(&task);
  job.number.fetch_add(1);
  job.number.notify_all();
  take_tasks(task);
  job.task.store(nullptr);
  for (int i = 0; i < SPINS && job.inside.load() != 0; ++i) pause_briefly();
  for (int inside = job.inside.load(); inside != 0; inside = job.inside.load()) job.inside.wait(inside);
}

void set_thread_count(int count) { threads_wanted = std::max(1, count); }

float *thread_scratch(size_t floats) {
  static thread_local Scratch scratch;
  return scratch.get(floats);
}

float *shared_scratch(Purpose purpose, size_t floats) {
  static Scratch scratch[static_cast<int>(Purpose::count)];
  return scratch[static_cast<int>(purpose)].get(floats);
}

void prefer_huge_pages(void *data, size_t bytes) {
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) / HUGE_PAGE * HUGE_PAGE;
  if (last > first) madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
}
