#include "files.h"

#include <algorithm>
#include <fstream>
#include <stdexcept>

#include "image_kind.h"

namespace fs = std::filesystem;

namespace {
constexpr size_t HEAD_BYTES = 32;  // enough for `image_kind`
constexpr size_t LISTED = 5;       // names in an error

bool is_hidden(const std::string &name) {
  return name.front() == '.' || name == "__MACOSX" || name == "Thumbs.db" || name == "desktop.ini";
}

// Adds the files in `folder` and below to `names`. `parents` are the real paths of the folders above: a link to one of
// them would lead in a circle.
void walk(const fs::path &folder, const std::string &prefix, std::vector<fs::path> parents, Names *names) {
  parents.push_back(fs::canonical(folder));
  for (const auto &entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (is_hidden(name)) continue;
    if (!entry.is_directory()) {
      names->push_back(prefix + name);
    } else if (std::find(parents.begin(), parents.end(), fs::canonical(entry.path())) == parents.end()) {
      walk(entry.path(), prefix + name + "/", parents, names);
    }
  }
}

Names all_files(const fs::path &root) {
  if (!fs::is_directory(root)) throw std::runtime_error(root.string() + ": no such folder");
  Names names;
  walk(root, "", {}, &names);
  std::sort(names.begin(), names.end());
  return names;
}

// Why a file that should be JPEG is none; empty if it is one.
std::string fault(const fs::path &path, const std::string &kind) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return "no such file";
  if (fs::is_empty(path, ignored)) return "empty";
  if (kind.empty()) return "not an image";
  return kind == JPEG ? "" : "is " + kind;
}
}  // namespace

Names list_files(const fs::path &root, const std::string &ending) {
  Names names = all_files(root);
  names.erase(std::remove_if(names.begin(), names.end(),
                             [&](const std::string &name) { return fs::path(name).extension() != ending; }),
              names.end());
  if (names.empty()) throw std::runtime_error(root.string() + ": no pictures here");
  return names;
}

Images list_images(const fs::path &root) {
  Images found;
  Names faults;
  for (const std::string &name : all_files(root)) {
    const fs::path path = root / name;
    std::vector<unsigned char> head(HEAD_BYTES);
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char *>(head.data()), HEAD_BYTES);
    head.resize(static_cast<size_t>(file.gcount()));
    const std::string kind = image_kind(head);
    if (kind.empty() && !ends_like_an_image(path)) {
      found.left_out.push_back(name);
      continue;
    }
    const std::string why = fault(path, kind);
    if (!why.empty()) faults.push_back(path.string() + ": " + why);
    found.names.push_back(name);
  }
  if (!faults.empty()) {
    throw std::runtime_error(list_some(faults, "; ") + "; this program reads JPEG: convert or remove what is not");
  }
  if (found.names.empty()) throw std::runtime_error(root.string() + ": no pictures here");
  return found;
}

std::string list_some(const Names &names, const std::string &separator) {
  std::string text;
  for (size_t i = 0; i < std::min(LISTED, names.size()); ++i) text += (i == 0 ? "" : separator) + names[i];
  return names.size() > LISTED ? text + " and " + std::to_string(names.size() - LISTED) + " more" : text;
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
