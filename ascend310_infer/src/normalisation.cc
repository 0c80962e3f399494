#include "normalisation.h"

#include <cmath>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>

#include "description.h"

namespace {
// Nothing if the text has no such key.
std::optional<std::array<float, 3>> three_numbers(const std::string &json, const std::string &key) {
  size_t at = value_of(json, key);
  if (at == std::string::npos) return std::nullopt;
  std::array<float, 3> numbers{};
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (at == std::string::npos || json[at] != (i == 0 ? '[' : ',')) throw std::runtime_error(key);
    char *end = nullptr;
    numbers[i] = std::strtof(json.c_str() + at + 1, &end);
    if (end == json.c_str() + at + 1 || !std::isfinite(numbers[i])) throw std::runtime_error(key);
    at = json.find_first_not_of(JSON_SPACE, static_cast<size_t>(end - json.c_str()));
  }
  if (at == std::string::npos || json[at] != ']') throw std::runtime_error(key);
  return numbers;
}
}  // namespace

bool Normalisation::is_imagenets() const {
  const Normalisation imagenets;
  for (size_t c = 0; c < mean.size(); ++c) {
    if (std::fabs(mean[c] - imagenets.mean[c]) > 1e-3F || std::fabs(std[c] - imagenets.std[c]) > 1e-3F) return false;
  }
  return true;
}

Normalisation read_normalisation(const std::filesystem::path &model) {
  Normalisation normalisation;
  const std::string json = read_description(model), inside = "\"inside the graph\"";
  const size_t normalise = value_of(json, "normalise");
  if (normalise != std::string::npos && json.compare(normalise, inside.size(), inside) == 0)
    return {{0.0F, 0.0F, 0.0F}, {1.0F, 1.0F, 1.0F}};
  try {
    normalisation.mean = three_numbers(json, "mean").value_or(normalisation.mean);
    normalisation.std = three_numbers(json, "std").value_or(normalisation.std);
    for (const float deviation : normalisation.std)
      if (deviation <= 0) throw std::runtime_error("std");
  } catch (const std::runtime_error &fault) {
    throw std::runtime_error(description_path(model).string() + ": has no three numbers as " + fault.what() +
                             "; export the model anew");
  }
  return normalisation;
}
