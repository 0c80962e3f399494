// The threads the kernels share. They sleep between jobs, so that they never take a core from the framework's own.
#pragma once

#include <functional>
#include <mutex>

// Whoever starts jobs or uses the scratch memory (workspace.h) holds this: both belong to one operator at a time,
// whatever threads the framework calls from.
std::mutex &kernel_lock();

// Calls task(0) ... task(count - 1), each once, on the caller and the pool's threads. Which thread runs which task is
// open, so tasks must not share what they write. If a task throws, those that no thread has begun are left out, and the
// first exception is thrown here once all others have ended. A child of fork() has no threads and starts its own.
void parallel(int count, const std::function<void(int)> &task);

// How many threads, the caller included, may work on the next jobs; the pool grows to this number when needed. If the
// system refuses a thread, the jobs run on those that there are.
void set_thread_count(int count);
