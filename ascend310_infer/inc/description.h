// The JSON beside a model, as export.py writes it: M.mindir.json for M.mindir.
#pragma once

#include <filesystem>
#include <string>

constexpr const char *JSON_SPACE = " \t\r\n";

std::filesystem::path description_path(const std::filesystem::path &model);

// The text of the JSON; empty if there is no such file. Throws if it cannot be read.
std::string read_description(const std::filesystem::path &model);

// Where the value of a key begins; npos if the text has no such key.
size_t value_of(const std::string &json, const std::string &key);
