#include "arguments.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

Shape::Shape(std::initializer_list<int64_t> list) : rank(static_cast<int>(list.size())) {
  std::copy(list.begin(), list.end(), sizes.begin());
}

bool Shape::operator==(const Shape &other) const { return rank == other.rank && sizes == other.sizes; }

size_t Shape::elements() const {
  size_t product = 1;
  for (int d = 0; d < rank; ++d) product *= static_cast<size_t>(sizes[d]);
  return product;
}

std::string Shape::text() const {
  std::string list;
  for (int d = 0; d < rank; ++d) list += (d == 0 ? "" : ", ") + std::to_string(sizes[d]);
  return "[" + list + "]";
}

void Arguments::expect_count(int count) const {
  if (count_ != count)
    throw std::invalid_argument(std::to_string(count) + " arguments are needed, not " + std::to_string(count_));
}

void Arguments::expect_at_least(int count) const {
  if (count_ < count)
    throw std::invalid_argument("at least " + std::to_string(count) + " arguments are needed, not " +
                                std::to_string(count_));
}

void Arguments::refuse(int i, const char *name, const std::string &fault) const {
  throw std::invalid_argument("argument " + std::to_string(i) + " (" + name + ") " + fault);
}

Shape Arguments::shape(int i, const char *name) const {
  if (ranks_[i] < 0 || ranks_[i] > Shape::MAX_RANK) refuse(i, name, "has the rank " + std::to_string(ranks_[i]));
  Shape shape;
  shape.rank = ranks_[i];
  int64_t most = std::numeric_limits<int64_t>::max() / static_cast<int64_t>(sizeof(float));
  for (int d = 0; d < shape.rank; ++d) {
    shape.sizes[d] = shapes_[i][d];
    if (shape.sizes[d] <= 0 || shape.sizes[d] > most)
      refuse(i, name, "has the size " + std::to_string(shape.sizes[d]) + " in dimension " + std::to_string(d));
    most /= shape.sizes[d];
  }
  return shape;
}

void *Arguments::array(int i, const char *name, const char *type) const {
  if (std::strcmp(types_[i], type) != 0) refuse(i, name, std::string("is of ") + types_[i] + ", not of " + type);
  if (data_[i] == nullptr) refuse(i, name, "has no memory");
  return data_[i];
}

float *Arguments::floats(int i, const char *name, const Shape &expected) const {
  const Shape found = shape(i, name);
  if (!(found == expected)) refuse(i, name, "is of shape " + found.text() + ", not " + expected.text());
  return static_cast<float *>(array(i, name, "float32"));
}

float *Arguments::floats(int i, const char *name) const { return floats(i, name, shape(i, name)); }

const int32_t *Arguments::integers(int i, const char *name) const {
  const Shape found = shape(i, name);
  if (found.rank != 1) refuse(i, name, "is of shape " + found.text() + ", not a row");
  return static_cast<const int32_t *>(array(i, name, "int32"));
}

float *Arguments::number(int i, const char *name) const { return static_cast<float *>(single(i, name, "float32")); }

int32_t Arguments::integer(int i, const char *name) const {
  return *static_cast<const int32_t *>(single(i, name, "int32"));
}

void *Arguments::single(int i, const char *name, const char *type) const {
  const Shape found = shape(i, name);
  if (found.rank > 1 || found.elements() != 1) refuse(i, name, "is of shape " + found.text() + ", not one number");
  return array(i, name, type);
}
