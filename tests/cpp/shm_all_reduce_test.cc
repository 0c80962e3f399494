// Sums over processes, and what is left of them when some end.
#include "shm_all_reduce.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <stdexcept>
#include <vector>

#include "checks.h"
#include "thread_pool.h"

namespace {

constexpr size_t FLOATS = 40001;  // two tasks

// Brings `rank + round` in one array and ten times the rank in another.
struct Rank {
  ShmAllReduce all_reduce;
  int rank;
  std::vector<float> sums = std::vector<float>(FLOATS - 1), sum = std::vector<float>(1);

  Rank(int file, int rank, int ranks) : all_reduce(file, rank, ranks, FLOATS), rank(rank) {}
  void bring(int round) {
    const std::vector<float> array(sums.size(), static_cast<float>(rank + round)), number(1, 10.0f * rank);
    all_reduce.sum({{array.data(), array.size()}, {number.data(), 1}}, {sums.data(), sum.data()});
  }
};

// A process that runs f and ends with status 0. Made before there are threads, which a fork would lose.
template <class F> pid_t process(F &&f) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child > 0) return child;
  limit_time();
  f();
  _exit(0);
}

bool ended_well(pid_t child) {
  int status = 1;
  return waitpid(child, &status, 0) == child && status == 0;
}

// Returns when the process has ended, and leaves it a zombie.
void wait_until_zombie(pid_t child) {
  siginfo_t info;
  CHECK(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
  CHECK(kill(child, 0) == 0);  // as if it lived
}

// Blocks until the other side of the pipe says so, or is gone.
struct Pipe {
  int ends[2];
  Pipe() { CHECK(pipe(ends) == 0); }
  void wait() {
    close(ends[1]);
    char byte;
    CHECK(read(ends[0], &byte, 1) >= 0);
  }
  void tell() { CHECK(write(ends[1], "x", 1) == 1); }
};

void three_processes_sum() {
  constexpr int RANKS = 3;
  const int file = ShmAllReduce::create_file(RANKS, FLOATS);
  const auto sum_three_times = [&](int rank) {
    Rank mine(file, rank, RANKS);
    for (int round = 1; round <= 3; ++round) {
      mine.bring(round);
      CHECK(mine.sums.front() == 3.0f * round + 3 && mine.sums.back() == mine.sums.front() && mine.sum[0] == 30);
    }
  };
  const pid_t others[] = {process([&] { sum_three_times(1); }), process([&] { sum_three_times(2); })};
  Rank mine(file, 0, RANKS);
  for (int round = 1; round <= 3; ++round) {
    mine.bring(round);
    CHECK(mine.sums.back() == 3.0f * round + 3 && mine.sum[0] == 30);
  }
  for (const pid_t other : others) CHECK(ended_well(other));
  CHECK_THROWS(std::runtime_error, mine.bring(4));
  close(file);
}

// A rank that takes longer than the others look for its end is waited for.
void a_slow_rank_is_not_missed() {
  const int file = ShmAllReduce::create_file(2, FLOATS);
  const pid_t other = process([&] {
    Rank mine(file, 1, 2);
    mine.bring(1);
    sleep(2);
    mine.bring(2);
  });
  Rank mine(file, 0, 2);
  mine.bring(1);
  mine.bring(2);
  CHECK(mine.sums.front() == 5);
  CHECK(ended_well(other));
  close(file);
}

// Whether children go without memory that is not to be theirs: QEMU's emulation of a processor takes no notice of it.
bool children_lack_memory() {
  void *page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED && madvise(page, 4096, MADV_DONTFORK) == 0);
  const bool lack = ended_well(process([&] { _exit(msync(page, 4096, MS_ASYNC) != 0 ? 0 : 1); }));
  munmap(page, 4096);
  return lack;
}

// A rank that is killed is missed, although it is a zombie, and although a child of it lives on.
void a_killed_rank_is_missed(bool has_child) {
  const int file = ShmAllReduce::create_file(2, FLOATS);
  Pipe ready, end;
  const pid_t other = process([&] {
    Rank mine(file, 1, 2);
    if (has_child && fork() == 0) {
      end.wait();  // until the test's end
      _exit(0);
    }
    mine.bring(1);
    ready.tell();
    pause();
  });
  Rank mine(file, 0, 2);
  mine.bring(1);
  ready.wait();
  kill(other, SIGKILL);
  wait_until_zombie(other);
  CHECK_THROWS(std::runtime_error, mine.bring(2));
  CHECK(waitpid(other, nullptr, 0) == other);
  close(end.ends[1]);
  close(file);
}

// What a rank brought before it ended is summed.
void a_rank_that_came_before_it_ended_counts() {
  const int file = ShmAllReduce::create_file(2, FLOATS);
  const pid_t other = process([&] { Rank(file, 1, 2).bring(1); });
  uint32_t arrived = 0;  // the first number of the memory
  while (arrived == 0) CHECK(pread(file, &arrived, sizeof arrived, 0) == sizeof arrived);
  kill(other, SIGKILL);
  wait_until_zombie(other);
  Rank mine(file, 0, 2);
  mine.bring(1);
  CHECK(mine.sums.front() == 3 && mine.sum[0] == 10);
  CHECK(waitpid(other, nullptr, 0) == other);
  close(file);
}

void a_child_takes_no_part() {
  const int file = ShmAllReduce::create_file(2, FLOATS);
  Rank mine(file, 0, 2);
  CHECK(ended_well(process([&] { CHECK_THROWS(std::runtime_error, mine.bring(1)); })));
  close(file);
}

void what_does_not_fit_is_refused() {
  for (const int64_t ranks : {-1, 0, 1, 257})
    CHECK_THROWS(std::runtime_error, ShmAllReduce::create_file(ranks, FLOATS));
  for (const int64_t floats : {int64_t{-1}, int64_t{0}, INT64_MAX, INT64_MAX / 8})
    CHECK_THROWS(std::runtime_error, ShmAllReduce::create_file(2, floats));
  const int file = ShmAllReduce::create_file(2, FLOATS);
  for (const int64_t rank : {-1, 2}) CHECK_THROWS(std::runtime_error, ShmAllReduce(file, rank, 2, FLOATS));
  CHECK_THROWS(std::runtime_error, ShmAllReduce(file, 0, 2, FLOATS + 1));  // the memory ends before
  CHECK_THROWS(std::runtime_error, ShmAllReduce(-1, 0, 2, FLOATS));
  Rank mine(file, 0, 2);
  CHECK_THROWS(std::runtime_error, ShmAllReduce(file, 0, 2, FLOATS));  // somebody has that rank
  const std::vector<float> many(FLOATS + 1);
  std::vector<float> sums(many.size());
  CHECK_THROWS(std::runtime_error, mine.all_reduce.sum({{many.data(), many.size()}}, {sums.data()}));
  close(file);
}

}  // namespace

int main() {
  limit_time();
  set_thread_count(1);
  three_processes_sum();
  a_slow_rank_is_not_missed();
  a_killed_rank_is_missed(false);
  if (children_lack_memory()) a_killed_rank_is_missed(true);
  a_rank_that_came_before_it_ended_counts();
  a_child_takes_no_part();
  what_does_not_fit_is_refused();
}
