// The threads the kernels share. They sleep between jobs, so that they never take a core from the framework's own.
#pragma once

#include <functional>

// Calls task(0) ... task(count - 1), each once, on the caller and the pool's threads. Which thread runs which task is
// open, so tasks must not share what they write. Only one job runs at a time: callers hold `kernel_lock`.
void parallel(int count, const std::function<void(int)> &task);

// How many threads, the caller included, may work on the next jobs; the pool grows to this number when needed.
void set_thread_count(int count);

// Memory of the calling thread, or of the one running kernel for one purpose, kept for the next call: at least `floats`
// floats, aligned to cache lines, contents undefined. The next call with the same purpose invalidates it.
enum class Purpose { kernel, values, wide_gradients, depthwise_gradients, narrow_gradients, count };
float *thread_scratch(size_t floats);
float *shared_scratch(Purpose purpose, size_t floats);

// Asks for huge pages under a large tensor: the page table walks of 4 KB pages cost several per cent of a step.
void prefer_huge_pages(void *data, size_t bytes);
