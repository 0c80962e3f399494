// The pool: every task once, whatever is thrown, refused or forked.
#include "thread_pool.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <limits>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "checks.h"

namespace {
std::atomic<int> threads_allowed{std::numeric_limits<int>::max()};
}

// Stands before the system's own, which refuses threads by limits that do not bind root.
extern "C" int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                              void *argument) {
  if (threads_allowed <= 0) return EAGAIN;
  --threads_allowed;
  static const auto create = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return create(thread, attributes, start, argument);
}

namespace {

// Each task writes to a place of its own, plainly: the thread sanitizer sees whether the caller may read it.
void run_all(int count) {
  std::vector<int> done(static_cast<size_t>(count), 0);
  parallel(count, [&](int i) { done[static_cast<size_t>(i)] += i + 1; });
  for (int i = 0; i < count; ++i) CHECK(done[static_cast<size_t>(i)] == i + 1);
}

void every_task_runs_once() {
  for (const int threads : {1, 2, 3, 8, 64, 2}) {
    set_thread_count(threads);
    for (const int count : {0, 1, 2, 7, 1000}) run_all(count);
  }
}

// Jobs shorter than a wake-up: threads come late, and find the next job, or none.
void short_jobs_follow_one_another() {
  set_thread_count(4);
  for (int job = 0; job < 20000; ++job) {
    if (job % 1000 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));  // the pool goes to sleep
    int sums[3] = {};
    parallel(3, [&](int i) { sums[i] = job + i; });
    CHECK(sums[0] + sums[1] + sums[2] == 3 * job + 3);
  }
}

// The pool sleeps before the job, the caller sleeps at its end.
void sleepers_are_woken() {
  constexpr std::chrono::milliseconds LONG{20};
  set_thread_count(2);
  const auto caller = std::this_thread::get_id();
  for (int job = 0; job < 3; ++job) {
    std::this_thread::sleep_for(LONG);
    std::atomic<bool> other{false};
    parallel(2, [&](int) {
      if (std::this_thread::get_id() != caller) {
        other = true;
        std::this_thread::sleep_for(LONG);
      }
      while (!other) std::this_thread::yield();
    });
  }
}

// Runs a job of many tasks of which one throws, on the caller or on a thread of the pool.
void the_caller_gets_what_is_thrown(bool on_pool_thread) {
  constexpr int COUNT = 100000;
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> thrown{false};
  std::atomic<int> begun{0};
  CHECK_THROWS(std::bad_alloc, parallel(COUNT, [&](int) {
                 ++begun;
                 if ((std::this_thread::get_id() != caller) == on_pool_thread) {
                   if (!thrown.exchange(true)) throw std::bad_alloc();
                 }
                 while (!thrown) std::this_thread::yield();
                 std::this_thread::sleep_for(std::chrono::microseconds(100));
               }));
  CHECK(begun < COUNT);  // what had not begun was left out
  run_all(1000);
}

void all_may_throw() {
  CHECK_THROWS(std::runtime_error, parallel(1000, [](int) { throw std::runtime_error("one of many"); }));
  run_all(1000);
}

void what_is_thrown_without_a_pool_arrives_too() {
  set_thread_count(1);
  int begun = 0;
  CHECK_THROWS(std::bad_alloc, parallel(10, [&](int i) {
                 ++begun;
                 if (i == 3) throw std::bad_alloc();
               }));
  CHECK(begun == 4);
}

// Called first: later the pool has its threads.
void fewer_threads_where_they_are_refused() {
  threads_allowed = 1;
  set_thread_count(4);
  std::atomic<bool> other{false};
  const auto caller = std::this_thread::get_id();
  parallel(2, [&](int) {  // the one that could be started works
    if (std::this_thread::get_id() != caller) other = true;
    while (!other) std::this_thread::yield();
  });
  run_all(1000);
  threads_allowed = 0;
  set_thread_count(8);
  run_all(1000);
  threads_allowed = std::numeric_limits<int>::max();
}

bool ends_well(pid_t child) {
  int status = 1;
  return waitpid(child, &status, 0) == child && status == 0;
}

// The child has none of the threads, and starts its own.
void a_child_has_a_pool() {
  set_thread_count(3);
  run_all(100);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    limit_time();
    std::atomic<bool> other{false};
    const auto caller = std::this_thread::get_id();
    parallel(2, [&](int) {
      if (std::this_thread::get_id() != caller) other = true;
      while (!other) std::this_thread::yield();
    });
    run_all(1000);
    _exit(0);
  }
  run_all(1000);
  CHECK(ends_well(child));
}

// Another thread is in the midst of a job when the process forks.
void a_child_is_not_bound_by_the_parents_job() {
  std::atomic<bool> begun{false}, end{false};
  std::thread other([&] {
    const std::lock_guard<std::mutex> lock(kernel_lock());
    parallel(2, [&](int) {
      begun = true;
      while (!end) std::this_thread::yield();
    });
  });
  while (!begun) std::this_thread::yield();
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    limit_time();
    const std::lock_guard<std::mutex> lock(kernel_lock());
    run_all(1000);
    _exit(0);
  }
  CHECK(ends_well(child));
  end = true;
  other.join();
  run_all(1000);
}

}  // namespace

int main() {
  limit_time();
  fewer_threads_where_they_are_refused();
  every_task_runs_once();
  short_jobs_follow_one_another();
  sleepers_are_woken();
  set_thread_count(3);
  the_caller_gets_what_is_thrown(false);
  the_caller_gets_what_is_thrown(true);
  all_may_throw();
  what_is_thrown_without_a_pool_arrives_too();
  if (!THREAD_SANITIZER) {  // which does not follow the threads that a child starts
    a_child_has_a_pool();
    a_child_is_not_bound_by_the_parents_job();
  }
}
