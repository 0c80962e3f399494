// Which files there are, and where results go.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

// Paths relative to a folder, sorted by their bytes.
using Names = std::vector<std::string>;

struct Images {
  Names names;     // of the JPEG files
  Names left_out;  // of files that are no images
};

// The files below `root` whose names end with `ending`. Throws if there is none or a folder cannot be read. Links are
// followed; hidden files and folders, and those that systems leave behind, are passed over, here and in `list_images`.
Names list_files(const std::filesystem::path &root, const std::string &ending);

// The images below `root`, by their content. Throws, with the names, if there are images of other kinds than JPEG or
// files that only end like an image; or if there is no image, or a folder cannot be read.
Images list_images(const std::filesystem::path &root);

// The content of a file. Throws if it cannot be read or is empty.
std::vector<unsigned char> read_file(const std::filesystem::path &path);

// Writes `path` whole or not at all, and the folders that it is in. Throws if that is not possible.
void write_file(const std::filesystem::path &path, const void *data, size_t size);

// The first names, and how many more there are.
std::string list_some(const Names &names, const std::string &separator);
