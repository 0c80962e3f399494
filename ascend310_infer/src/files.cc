#include "files.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <stdexcept>

namespace fs = std::filesystem;

std::vector<std::string> list_files(const fs::path &root, const std::vector<std::string> &endings) {
  if (!fs::is_directory(root)) throw std::runtime_error(root.string() + ": no such folder");
  std::vector<std::string> found;
  auto end = fs::recursive_directory_iterator();
  for (auto entry = fs::recursive_directory_iterator(root, fs::directory_options::follow_directory_symlink);
       entry != end; ++entry) {
    if (entry->path().filename().string().front() == '.') {
      if (entry->is_directory()) entry.disable_recursion_pending();
      continue;
    }
    std::string ending = entry->path().extension().string();
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
    if (std::find(endings.begin(), endings.end(), ending) == endings.end() || entry->is_directory()) continue;
    found.push_back(entry->path().lexically_relative(root).generic_string());
  }
  if (found.empty()) throw std::runtime_error(root.string() + ": no pictures here");
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<unsigned char> read_file(const fs::path &path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<unsigned char> content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) throw std::runtime_error(path.string() + ": cannot be read");
  if (content.empty()) throw std::runtime_error(path.string() + ": empty");
  return content;
}

void write_file(const fs::path &path, const void *data, size_t size) {
  fs::create_directories(path.parent_path());
  const fs::path temporary = path.string() + ".part";
  std::ofstream file(temporary, std::ios::binary);
  file.write(static_cast<const char *>(data), static_cast<std::streamsize>(size));
  file.close();
  if (!file) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw std::runtime_error(path.string() + ": cannot be written");
  }
  fs::rename(temporary, path);
}
