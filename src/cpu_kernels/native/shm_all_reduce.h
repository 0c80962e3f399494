// Sums of arrays over the processes of one machine, through memory that they all have mapped.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "span.h"

class ShmAllReduce {
 public:
  // A new file without a name for `ranks` processes and arrays of `floats` numbers in all. Throws std::runtime_error.
  static int create_file(int64_t ranks, int64_t floats);

  // Maps the file `fd`, which may be closed afterwards, and holds this rank's lock in it for as long as the process
  // lives. Throws std::runtime_error.
  ShmAllReduce(int fd, int64_t rank, int64_t ranks, int64_t floats);

  // sums[i] = the sum over all ranks of what each gave as arrays[i], in the order of the ranks: the same bits for all.
  // Sleeps until every rank has come here as often. Throws std::runtime_error if one has ended.
  void sum(const std::vector<Span> &arrays, const std::vector<float *> &sums);

 private:
  struct Header;
  float *slot(int rank) const;
  void wait_for_all();
  // The first rank that has joined and whose process has ended; -1 if there is none.
  int ended_rank() const;

  Header *header_;
  int file_;  // to look at the locks; without a lock of its own
  pid_t process_;
  int rank_, ranks_;
  size_t floats_;
  uint32_t rounds_ = 0;  // sums so far: they take the two sets of slots in turn
};
