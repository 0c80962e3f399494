#include "exchange.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <string>

#include "threads.h"

namespace {
constexpr size_t STRETCH = size_t{1} << 15;  // floats that one task copies or adds
constexpr size_t PAGE = 4096;  // the header's; Python marks the file in its last 8 bytes
constexpr int MOST_RANKS = 256;
}  // namespace

struct Exchange::Header {
  std::atomic<uint32_t> arrived;  // how often a rank has brought its arrays; wraps around
  std::atomic<pid_t> processes[MOST_RANKS];
};

// Two sets of slots: a rank that has its sum may bring its next arrays while another still reads the last ones. It
// cannot be two rounds ahead, as no round ends before all have come to it.
size_t Exchange::bytes(int ranks, size_t floats) { return PAGE + 2 * ranks * floats * sizeof(float); }

Exchange::Exchange(int fd, int rank, int ranks, size_t floats) : rank(rank), ranks(ranks), floats(floats) {
  static_assert(sizeof(Header) <= PAGE - 8 && std::atomic<uint32_t>::is_always_lock_free);
  if (ranks > MOST_RANKS) throw std::runtime_error("too many ranks");
  void *memory = mmap(nullptr, bytes(ranks, floats), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) throw std::runtime_error(std::string("no shared memory: ") + std::strerror(errno));
  header = static_cast<Header *>(memory);
  header->processes[rank] = getpid();
}

float *Exchange::slot(int of_rank) const {
  auto *slots = reinterpret_cast<float *>(reinterpret_cast<char *>(header) + PAGE);
  return slots + (static_cast<size_t>(rounds % 2) * ranks + of_rank) * floats;
}

void Exchange::sum(const std::vector<Numbers> &arrays, const std::vector<float *> &sums) {
  struct Task {
    size_t array, first, last, offset;  // of the array; where it stands in a slot
  };
  std::vector<Task> tasks;
  size_t offset = 0;
  for (size_t a = 0; a < arrays.size(); offset += arrays[a++].count)
    for (size_t i = 0; i < arrays[a].count; i += STRETCH)
      tasks.push_back({a, i, std::min(i + STRETCH, arrays[a].count), offset + i});
  if (offset > floats) throw std::runtime_error("more numbers to sum than was agreed");

  ++rounds;
  float *mine = slot(rank);
  parallel(static_cast<int>(tasks.size()), [&](int t) {
    const Task &task = tasks[t];
    std::copy(arrays[task.array].first + task.first, arrays[task.array].first + task.last, mine + task.offset);
  });
  wait_for_all();
  parallel(static_cast<int>(tasks.size()), [&](int t) {
    const Task &task = tasks[t];
    const size_t count = task.last - task.first;
    float *__restrict out = sums[task.array] + task.first;
    const float *first = slot(0) + task.offset, *second = slot(1) + task.offset;
    for (size_t i = 0; i < count; ++i) out[i] = first[i] + second[i];
    for (int r = 2; r < ranks; ++r) {
      const float *__restrict other = slot(r) + task.offset;
      for (size_t i = 0; i < count; ++i) out[i] += other[i];
    }
  });
}

void Exchange::wait_for_all() {
  auto *word = reinterpret_cast<uint32_t *>(&header->arrived);
  const uint32_t all = rounds * static_cast<uint32_t>(ranks);
  const auto missing = [&](uint32_t arrived) { return static_cast<int32_t>(all - arrived) > 0; };
  if (!missing(header->arrived.fetch_add(1) + 1)) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    return;
  }
  for (uint32_t arrived = header->arrived; missing(arrived); arrived = header->arrived) {
    const timespec second{1, 0};
    if (syscall(SYS_futex, word, FUTEX_WAIT, arrived, &second, nullptr, 0) == 0 || errno != ETIMEDOUT) continue;
    for (int r = 0; r < ranks; ++r)
      if (kill(header->processes[r], 0) != 0 && errno == ESRCH)
        throw std::runtime_error("rank " + std::to_string(r) + " has ended");
  }
}
