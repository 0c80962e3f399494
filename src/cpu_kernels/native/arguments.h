// What MindSpore calls an operator with: pointers to its inputs and then its outputs, their ranks, shapes and types.
// Every access says what must be there, so that no byte is read or written before that has been found to be so.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

struct Shape {
  static constexpr int MAX_RANK = 8;  // of MindSpore's arrays
  std::array<int64_t, MAX_RANK> sizes = {};
  int rank = 0;

  Shape() = default;
  Shape(std::initializer_list<int64_t> list);
  bool operator==(const Shape &other) const;
  size_t elements() const;
  std::string text() const;
};

// All methods throw std::invalid_argument, with the argument's place and name, unless it is as they say.
class Arguments {
 public:
  Arguments(int count, void **data, const int *ranks, int64_t **shapes, const char **types)
      : count_(count), data_(data), ranks_(ranks), shapes_(shapes), types_(types) {}

  int count() const { return count_; }
  void expect_count(int count) const;
  void expect_at_least(int count) const;

  Shape shape(int i, const char *name) const;
  // An array of float32 of this shape, or of any.
  float *floats(int i, const char *name, const Shape &expected) const;
  float *floats(int i, const char *name) const;
  // A row of int32 of any length.
  const int32_t *integers(int i, const char *name) const;
  // A single number: of no dimension, or of one.
  float *number(int i, const char *name) const;
  int32_t integer(int i, const char *name) const;

 private:
  [[noreturn]] void refuse(int i, const char *name, const std::string &fault) const;
  void *array(int i, const char *name, const char *type) const;
  void *single(int i, const char *name, const char *type) const;

  int count_;
  void **data_;
  const int *ranks_;
  int64_t **shapes_;  // null for an array of no dimension
  const char **types_;
};
