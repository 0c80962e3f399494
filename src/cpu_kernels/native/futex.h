// Sleeping until a number in memory changes. std::atomic::wait, which is made of the same Linux call, needs g++ 11.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

using Word = std::atomic<uint32_t>;
static_assert(sizeof(Word) == sizeof(uint32_t) && Word::is_always_lock_free, "the kernel reads it as a plain number");

// Who sleeps on a word: threads of one process, or of all that have mapped its memory.
enum class Sleepers { threads = FUTEX_PRIVATE_FLAG, processes = 0 };

// Sleeps while the word is `seen`, until somebody is woken, or for no reason at all: the caller looks again. False only
// when `timeout` has passed; null means none.
inline bool futex_wait(Word &word, uint32_t seen, Sleepers sleepers, const timespec *timeout = nullptr) {
  const int operation = FUTEX_WAIT | static_cast<int>(sleepers);
  return syscall(SYS_futex, &word, operation, seen, timeout, nullptr, 0) == 0 || errno != ETIMEDOUT;
}

inline void futex_wake(Word &word, int count, Sleepers sleepers) {
  syscall(SYS_futex, &word, FUTEX_WAKE | static_cast<int>(sleepers), count, nullptr, nullptr, 0);
}
