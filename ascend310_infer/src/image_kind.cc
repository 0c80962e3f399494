#include "image_kind.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <string_view>
#include <utility>

using namespace std::string_view_literals;

namespace {
constexpr std::array ENDINGS = {".jpg"sv, ".jpeg"sv, ".jpe"sv,  ".jfif"sv, ".mpo"sv,  ".png"sv,  ".apng"sv, ".bmp"sv,
                                ".dib"sv, ".tif"sv,  ".tiff"sv, ".webp"sv, ".heic"sv, ".heif"sv, ".hif"sv,  ".avif"sv,
                                ".gif"sv, ".jp2"sv,  ".j2k"sv,  ".jpx"sv,  ".ppm"sv,  ".pgm"sv,  ".pbm"sv,  ".pnm"sv};
constexpr std::array<std::pair<std::string_view, const char *>, 11> BEGINNINGS = {{
    {"\xff\xd8\xff"sv, JPEG},
    {"\x89PNG\r\n\x1a\n"sv, "PNG"},
    {"II*\0"sv, "TIFF"},
    {"MM\0*"sv, "TIFF"},
    {"II+\0"sv, "TIFF"},
    {"MM\0+"sv, "TIFF"},
    {"GIF87a"sv, "GIF"},
    {"GIF89a"sv, "GIF"},
    {"\0\0\0\x0cjP  \r\n\x87\n"sv, "JPEG 2000"},
    {"\xff\x4f\xff\x51"sv, "JPEG 2000"},
    {"BM"sv, "BMP"},
}};
constexpr std::array HEIF_BRANDS = {"heic"sv, "heix"sv, "heim"sv, "heis"sv, "hevc"sv, "hevx"sv, "mif1"sv, "msf1"sv};
constexpr unsigned ORIENTATION = 0x0112;
constexpr unsigned START_OF_SCAN = 0xDA, APP1 = 0xE1;  // ITU T.81, table B.1

// Numbers of a TIFF structure, in either byte order. What lies beyond its end reads as 0.
class TiffNumbers {
 public:
  explicit TiffNumbers(std::string_view data) : data_(data), is_big_endian_(data.substr(0, 2) == "MM") {}

  uint32_t read(size_t at, size_t bytes) const {
    if (at > data_.size() || data_.size() - at < bytes) return 0;
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) {
      value = value << 8 | static_cast<unsigned char>(data_[at + (is_big_endian_ ? i : bytes - 1 - i)]);
    }
    return value;
  }

 private:
  std::string_view data_;
  bool is_big_endian_;
};

int exif_orientation(std::string_view exif) {
  const TiffNumbers numbers(exif);
  if (numbers.read(2, 2) != 42) return 0;
  const size_t directory = numbers.read(4, 4);
  const size_t entries = numbers.read(directory, 2);
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * i;
    if (numbers.read(entry, 2) != ORIENTATION) continue;
    const uint32_t type = numbers.read(entry + 2, 2), count = numbers.read(entry + 4, 4);
    const size_t bytes = type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0;  // BYTE, SHORT, LONG
    return count == 1 ? static_cast<int>(numbers.read(entry + 8, bytes)) : 0;
  }
  return 0;
}

int xmp_orientation(std::string_view xmp) {
  constexpr std::string_view NAME = "tiff:Orientation";
  for (size_t at = xmp.find(NAME); at != std::string_view::npos; at = xmp.find(NAME, at + 1)) {
    std::string_view value = xmp.substr(at + NAME.size());
    value.remove_prefix(value.substr(0, 2) == "=\"" ? 2 : value.substr(0, 1) == ">" ? 1 : value.size());
    if (!value.empty() && std::isdigit(static_cast<unsigned char>(value[0])) != 0) return value[0] - '0';
  }
  return 0;
}
}  // namespace

std::string image_kind(const std::vector<unsigned char> &content) {
  const std::string_view data(reinterpret_cast<const char *>(content.data()), content.size());
  for (const auto &[beginning, kind] : BEGINNINGS) {
    if (data.substr(0, beginning.size()) == beginning) return kind;
  }
  if (data.substr(0, 4) == "RIFF" && data.size() >= 12 && data.substr(8, 4) == "WEBP") return "WebP";
  if (data.size() >= 12 && data.substr(4, 4) == "ftyp") {
    const auto brand = data.substr(8, 4);
    if (brand == "avif" || brand == "avis") return "AVIF";
    if (std::find(HEIF_BRANDS.begin(), HEIF_BRANDS.end(), brand) != HEIF_BRANDS.end()) return "HEIC";
  }
  const bool is_pnm = data.size() >= 3 && data[0] == 'P' && "123456f"sv.find(data[1]) != std::string_view::npos &&
                      std::isspace(static_cast<unsigned char>(data[2])) != 0;
  return is_pnm ? "PPM" : "";
}

bool ends_like_an_image(const std::filesystem::path &path) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
  return std::find(ENDINGS.begin(), ENDINGS.end(), ending) != ENDINGS.end();
}

int jpeg_orientation(const std::vector<unsigned char> &content) {
  constexpr std::string_view EXIF = "Exif\0\0"sv, XMP = "http://ns.adobe.com/xap/1.0/\0"sv;
  const std::string_view data(reinterpret_cast<const char *>(content.data()), content.size());
  int by_exif = 0, by_xmp = 0;
  for (size_t at = 2; at + 4 <= data.size() && content[at] == 0xFF && content[at + 1] != START_OF_SCAN;) {
    const size_t length = content[at + 2] << 8 | content[at + 3];
    if (content[at + 1] == APP1 && length >= 2) {
      const auto segment = data.substr(at + 4, length - 2);
      if (segment.substr(0, EXIF.size()) == EXIF && by_exif == 0) {
        by_exif = exif_orientation(segment.substr(EXIF.size()));
      } else if (segment.substr(0, XMP.size()) == XMP && by_xmp == 0) {
        by_xmp = xmp_orientation(segment.substr(XMP.size()));
      }
    }
    at += 2 + length;
  }
  const int found = by_exif != 0 ? by_exif : by_xmp;
  return found >= 2 && found <= 8 ? found : 1;
}
