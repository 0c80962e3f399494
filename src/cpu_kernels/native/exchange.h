// Sums of arrays over the processes of one machine, through memory that they all have mapped.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "optimizer.h"

class Exchange {
 public:
  // Bytes of the memory for `ranks` processes and arrays of `floats` numbers in all; it must start as zeros.
  static size_t bytes(int ranks, size_t floats);

  // Maps the file `fd`, which may be closed afterwards. Throws std::runtime_error.
  Exchange(int fd, int rank, int ranks, size_t floats);

  // sums[i] = the sum over all ranks of what each gave as arrays[i], in the order of the ranks: the same bits for all.
  // Sleeps until every rank has come here as often. Throws std::runtime_error if one has ended.
  void sum(const std::vector<Numbers> &arrays, const std::vector<float *> &sums);

 private:
  struct Header;
  float *slot(int rank) const;
  void wait_for_all();

  Header *header;
  int rank, ranks;
  size_t floats;
  uint32_t rounds = 0;  // sums so far: they take the two sets of slots in turn
};
