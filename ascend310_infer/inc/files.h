// Which images there are, and where results go.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

// The files below `root` with one of `endings` (lower case; the files' own case does not matter), as paths relative to
// it, sorted by their bytes. Hidden files and folders are passed over. Throws if there is none or one cannot be read.
std::vector<std::string> list_files(const std::filesystem::path &root, const std::vector<std::string> &endings);

// The content of a file. Throws if it cannot be read or is empty.
std::vector<unsigned char> read_file(const std::filesystem::path &path);

// Writes `path` whole or not at all, and the folders that it is in. Throws if that is not possible.
void write_file(const std::filesystem::path &path, const void *data, size_t size);
