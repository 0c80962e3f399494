#include "thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <thread>
#include <utility>

#include "futex.h"

namespace {

using Clock = std::chrono::steady_clock;

// Kernels follow one another within microseconds, so a short watch before sleeping saves most wake-ups; long enough to
// bridge that gap, short enough to be gone when the framework's operators want the core.
constexpr std::chrono::microseconds WATCH{50};
// How often a thread offers its core to others before it sleeps. Linux lets one that has not done so push the thread
// that wakes it off a core that they share, and finish the watch there first.
constexpr int OFFERS = 4;

constexpr size_t CACHE_LINE = 64;

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A number that threads wait on. Where nobody sleeps, waking costs no system call.
class alignas(CACHE_LINE) Counter {
 public:
  uint32_t load() const { return value_.load(); }
  // The new value.
  uint32_t add(uint32_t difference) { return value_.fetch_add(difference) + difference; }
  void wait_while(uint32_t seen) {
    for (const auto end = Clock::now() + WATCH; value_.load() == seen && Clock::now() < end;) pause_briefly();
    for (int i = 0; i < OFFERS && value_.load() == seen; ++i) std::this_thread::yield();
    while (value_.load() == seen) {
      // Announced before the kernel looks at the value, as `wake` looks for sleepers after it has changed: one of the
      // two sees the other.
      sleepers_.fetch_add(1);
      futex_wait(value_, seen, Sleepers::threads);
      sleepers_.fetch_sub(1);
    }
  }
  // Called after a change.
  void wake(int count) {
    if (sleepers_.load() != 0) futex_wake(value_, count, Sleepers::threads);
  }

 private:
  Word value_{0};
  std::atomic<int> sleepers_{0};
};

struct Pool {
  explicit Pool(int wanted) : wanted(wanted) {}

  std::mutex lock;
  std::atomic<int> wanted;
  int started = 1;  // the caller is number 0

  // The job.
  std::atomic<const std::function<void(int)> *> task{nullptr};  // null: closed, nobody may enter
  int count = 0;
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // the first; written by the one that has set `failed`
  Counter jobs;              // so far
  Counter inside;            // threads of the pool that may be at work on it
  alignas(CACHE_LINE) std::atomic<int> next{0};
};

// Never destroyed: sleeping threads still refer to it while the process exits. The child of a fork has none of the
// threads, and whoever held the lock may be gone as well: it begins with a pool of its own.
Pool *pool = [] {
  pthread_atfork(nullptr, nullptr, [] { pool = new Pool(pool->wanted); });
  return new Pool(1);
}();

void take_tasks(Pool &p, const std::function<void(int)> &task) {
  for (int i = p.next.fetch_add(1); i < p.count; i = p.next.fetch_add(1)) {
    try {
      task(i);
    } catch (...) {
      if (!p.failed.exchange(true)) p.error = std::current_exception();
      p.next.store(p.count);
    }
  }
}

// A thread announces itself before it looks whether the job is open, and the owner closes the job before it waits for
// those inside: a thread that wakes up late finds the job closed, and nobody waits for it.
void work(Pool &p, int number, uint32_t seen) {
  for (;;) {
    p.jobs.wait_while(seen);
    seen = p.jobs.load();
    if (number >= p.wanted) continue;
    p.inside.add(1);
    if (const auto *task = p.task.load()) take_tasks(p, *task);
    if (p.inside.add(-1) == 0) p.inside.wake(1);
  }
}

void start_threads(Pool &p) {
  try {
    for (; p.started < p.wanted; ++p.started) std::thread(work, std::ref(p), p.started, p.jobs.load()).detach();
  } catch (const std::exception &error) {  // no memory, or no more threads allowed
    std::fprintf(stderr, "CPU kernels: %d instead of %d threads: no more can be started (%s)\n", p.started,
                 p.wanted.load(), error.what());
    p.wanted = p.started;
  }
}

}  // namespace

std::mutex &kernel_lock() { return pool->lock; }

void parallel(int count, const std::function<void(int)> &task) {
  Pool &p = *pool;
  if (count > 1) start_threads(p);
  if (count <= 1 || p.wanted <= 1) {
    for (int i = 0; i < count; ++i) task(i);
    return;
  }
  p.count = count;
  p.failed.store(false);
  p.next.store(0);
  p.task.store(&task);
  p.jobs.add(1);
  p.jobs.wake(count - 1 + p.started - p.wanted);  // threads that are not wanted sleep among the others
  take_tasks(p, task);
  p.task.store(nullptr);
  for (uint32_t inside = p.inside.load(); inside != 0; inside = p.inside.load()) p.inside.wait_while(inside);
  if (p.failed) std::rethrow_exception(std::exchange(p.error, nullptr));
}

void set_thread_count(int count) { pool->wanted = std::max(1, count); }
