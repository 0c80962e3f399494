#include "shm_all_reduce.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "futex.h"
#include "thread_pool.h"

namespace {

constexpr size_t PIECE = size_t{1} << 15;  // floats that one task copies or adds
constexpr size_t PAGE = 4096;              // the header's; Python marks the file in its last 8 bytes
constexpr int MOST_RANKS = 256;

// A file descriptor, closed at the end.
struct Descriptor {
  int number;
  explicit Descriptor(int number) : number(number) {}
  Descriptor(const Descriptor &) = delete;
  Descriptor &operator=(const Descriptor &) = delete;
  ~Descriptor() {
    if (number >= 0) close(number);
  }
  int release() { return std::exchange(number, -1); }
};

[[noreturn]] void fail(const std::string &what) { throw std::runtime_error(what + ": " + std::strerror(errno)); }

// Two sets of slots: a rank that has its sum may bring its next arrays while another still reads the last ones. It
// cannot be two rounds ahead, as no round ends before all have come to it.
size_t bytes_of(int64_t ranks, int64_t floats) {
  if (ranks < 2 || ranks > MOST_RANKS)
    throw std::runtime_error("sums are over 2 to " + std::to_string(MOST_RANKS) + " ranks, not " +
                             std::to_string(ranks));
  constexpr int64_t MOST_FLOATS = std::numeric_limits<int64_t>::max() / (2 * MOST_RANKS * sizeof(float)) - PAGE;
  if (floats < 1 || floats > MOST_FLOATS)
    throw std::runtime_error("no memory can be shared for " + std::to_string(floats) + " numbers");
  return PAGE + 2 * static_cast<size_t>(ranks) * static_cast<size_t>(floats) * sizeof(float);
}

// The lock of a rank: one byte of the file.
struct flock lock_of(int rank) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  return lock;
}

}  // namespace

struct ShmAllReduce::Header {
  Word arrived;                          // how often a rank has brought its arrays; wraps around
  std::atomic<bool> joined[MOST_RANKS];  // whether a rank has had its lock
};

int ShmAllReduce::create_file(int64_t ranks, int64_t floats) {
  const size_t bytes = bytes_of(ranks, floats);
  Descriptor file(memfd_create("all-reduce over ranks", MFD_CLOEXEC));
  if (file.number < 0 || ftruncate(file.number, static_cast<off_t>(bytes)) != 0) fail("no shared memory");
  return file.release();
}

// A lock that belongs to an open file ends with the last thing that refers to that file. Here this is the mapping, as
// the file is opened for the mapping alone, and children do not inherit it: the lock ends with this process's memory,
// also if nobody has waited for the process yet, its number is in use again, or a child lives on.
ShmAllReduce::ShmAllReduce(int fd, int64_t rank, int64_t ranks, int64_t floats)
    : process_(getpid()),
      rank_(static_cast<int>(rank)),
      ranks_(static_cast<int>(ranks)),
      floats_(static_cast<size_t>(floats)) {
  static_assert(sizeof(Header) <= PAGE - 8);
  const size_t bytes = bytes_of(ranks, floats);
  if (rank < 0 || rank >= ranks)
    throw std::runtime_error("there is no rank " + std::to_string(rank) + " of " + std::to_string(ranks));
  struct stat status;
  if (fstat(fd, &status) != 0) fail("no shared memory");
  if (static_cast<size_t>(status.st_size) != bytes)
    throw std::runtime_error("the shared memory has " + std::to_string(status.st_size) + " bytes, not " +
                             std::to_string(bytes));
  Descriptor without_lock(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  const Descriptor with_lock(open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDWR | O_CLOEXEC));
  if (without_lock.number < 0 || with_lock.number < 0) fail("no shared memory");
  struct flock lock = lock_of(rank_);
  if (fcntl(with_lock.number, F_OFD_SETLK, &lock) != 0) fail("no lock for rank " + std::to_string(rank_));
  void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, with_lock.number, 0);
  if (memory == MAP_FAILED) fail("no shared memory");
  if (madvise(memory, bytes, MADV_DONTFORK) != 0) fail("no memory of this process alone");
  file_ = without_lock.release();
  header_ = static_cast<Header *>(memory);
  header_->joined[rank_] = true;
}

float *ShmAllReduce::slot(int rank) const {
  auto *slots = reinterpret_cast<float *>(reinterpret_cast<char *>(header_) + PAGE);
  return slots + (static_cast<size_t>(rounds_ % 2) * ranks_ + rank) * floats_;
}

void ShmAllReduce::sum(const std::vector<Span> &arrays, const std::vector<float *> &sums) {
  if (getpid() != process_) throw std::runtime_error("a child of fork() takes no part in sums");
  struct Task {
    size_t array, first, last, offset;  // of the array; where it stands in a slot
  };
  std::vector<Task> tasks;
  size_t offset = 0;
  for (size_t a = 0; a < arrays.size(); offset += arrays[a++].size)
    for (size_t i = 0; i < arrays[a].size; i += PIECE)
      tasks.push_back({a, i, std::min(i + PIECE, arrays[a].size), offset + i});
  if (offset > floats_) throw std::runtime_error("more numbers to sum than was agreed");

  ++rounds_;
  float *mine = slot(rank_);
  parallel(static_cast<int>(tasks.size()), [&](int t) {
    const Task &task = tasks[t];
    std::copy(arrays[task.array].data + task.first, arrays[task.array].data + task.last, mine + task.offset);
  });
  wait_for_all();
  parallel(static_cast<int>(tasks.size()), [&](int t) {
    const Task &task = tasks[t];
    const size_t count = task.last - task.first;
    float *__restrict out = sums[task.array] + task.first;
    const float *first = slot(0) + task.offset, *second = slot(1) + task.offset;
    for (size_t i = 0; i < count; ++i) out[i] = first[i] + second[i];
    for (int r = 2; r < ranks_; ++r) {
      const float *__restrict other = slot(r) + task.offset;
      for (size_t i = 0; i < count; ++i) out[i] += other[i];
    }
  });
}

void ShmAllReduce::wait_for_all() {
  Word &arrived = header_->arrived;
  const uint32_t all = rounds_ * static_cast<uint32_t>(ranks_);
  const auto missing = [&](uint32_t count) { return static_cast<int32_t>(all - count) > 0; };
  if (!missing(arrived.fetch_add(1) + 1)) {
    futex_wake(arrived, INT_MAX, Sleepers::processes);
    return;
  }
  constexpr timespec SECOND = {1, 0};
  for (uint32_t count = arrived; missing(count); count = arrived) {
    if (futex_wait(arrived, count, Sleepers::processes, &SECOND)) continue;
    // One that came here before it ended is not missed.
    const int ended = ended_rank();
    if (ended >= 0 && missing(arrived)) throw std::runtime_error("rank " + std::to_string(ended) + " has ended");
  }
}

int ShmAllReduce::ended_rank() const {
  for (int r = 0; r < ranks_; ++r) {
    if (r == rank_ || !header_->joined[r]) continue;
    struct flock lock = lock_of(r);
    if (fcntl(file_, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK) return r;
  }
  return -1;
}
