// What a file is, by its content: the definition of src/data/images.py, for a program that decodes JPEG alone.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

constexpr const char *JPEG = "JPEG";

// The kind of image that `content` begins as, such as JPEG or PNG; empty if it is none. 32 bytes are enough.
std::string image_kind(const std::vector<unsigned char> &content);

// Whether a file's name ends like that of an image: then it is an error that it is none.
bool ends_like_an_image(const std::filesystem::path &path);

// How a JPEG is stored, by its EXIF or XMP data: 1 is upright, 2 to 8 are mirrored or turned. 1 if the data are missing
// or damaged. EXIF 2.32, 4.6.4 A (tag 0x0112).
int jpeg_orientation(const std::vector<unsigned char> &content);
