#include "description.h"

#include "files.h"

std::filesystem::path description_path(const std::filesystem::path &model) { return model.string() + ".json"; }

std::string read_description(const std::filesystem::path &model) {
  const auto path = description_path(model);
  if (!std::filesystem::is_regular_file(path)) return "";
  const auto content = read_file(path);
  return {content.begin(), content.end()};
}

// A text in quotes is a key if a colon follows.
size_t value_of(const std::string &json, const std::string &key) {
  const std::string quoted = '"' + key + '"';
  for (size_t at = json.find(quoted); at != std::string::npos; at = json.find(quoted, at + 1)) {
    const size_t colon = json.find_first_not_of(JSON_SPACE, at + quoted.size());
    if (colon != std::string::npos && json[colon] == ':') return json.find_first_not_of(JSON_SPACE, colon + 1);
  }
  return std::string::npos;
}
