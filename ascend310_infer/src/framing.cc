#include "framing.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "description.h"

namespace {
constexpr size_t CHANNELS = 3;
constexpr std::array<unsigned char, CHANNELS> PAD_COLOUR = {124, 116, 104};  // 255 x mean of ImageNet, rounded

// A value that is a word, one of `known`; the first of them if the text has no such key.
std::string word_of(const std::string &json, const std::string &key, const std::vector<std::string> &known) {
  const size_t at = value_of(json, key);
  if (at == std::string::npos) return known.front();
  for (const auto &word : known)
    if (json.compare(at, word.size() + 2, '"' + word + '"') == 0) return word;
  throw std::runtime_error(key);
}

double share_of(const std::string &json, const std::string &key, double missing) {
  const size_t at = value_of(json, key);
  if (at == std::string::npos) return missing;
  char *end = nullptr;
  const double share = std::strtod(json.c_str() + at, &end);
  if (end == json.c_str() + at || !(share > 0 && share <= 1)) throw std::runtime_error(key);
  return share;
}

// The longer side as MindSpore's Resize has it: in float32, rounded down.
Image resize_shorter_side(const Image &image, int side, Interpolation interpolation) {
  const auto w = static_cast<float>(image.width), h = static_cast<float>(image.height);
  const auto shorter = static_cast<float>(side);
  return image.height < image.width ? resize(image, static_cast<int>(std::floor(w / h * shorter)), side, interpolation)
                                    : resize(image, side, static_cast<int>(std::floor(h / w * shorter)), interpolation);
}

Image letterbox(const Image &image, int size, Interpolation interpolation) {
  const double longer = std::max(image.width, image.height);
  const auto scaled = [&](int side) {
    return std::max(1, static_cast<int>(std::lround(static_cast<double>(side) * size / longer)));
  };
  const Image whole = resize(image, scaled(image.width), scaled(image.height), interpolation);
  Image square{size, size, {}};
  square.rgb.reserve(CHANNELS * static_cast<size_t>(size) * size);
  for (int i = 0; i < size * size; ++i) square.rgb.insert(square.rgb.end(), PAD_COLOUR.begin(), PAD_COLOUR.end());
  const int left = (size - whole.width) / 2, top = (size - whole.height) / 2;
  const size_t stride = CHANNELS * static_cast<size_t>(whole.width);
  for (int y = 0; y < whole.height; ++y) {
    std::copy_n(whole.rgb.begin() + static_cast<std::ptrdiff_t>(stride * y), stride,
                square.rgb.begin() + static_cast<std::ptrdiff_t>(CHANNELS * ((top + y) * size + left)));
  }
  return square;
}

Image crop(const Image &image, int left, int top, int size) {
  Image out{size, size, {}};
  out.rgb.reserve(CHANNELS * static_cast<size_t>(size) * size);
  for (int y = top; y < top + size; ++y) {
    const auto *row = image.rgb.data() + CHANNELS * (static_cast<size_t>(y) * image.width + left);
    out.rgb.insert(out.rgb.end(), row, row + CHANNELS * static_cast<size_t>(size));
  }
  return out;
}
}  // namespace

int Framing::views() const {
  if (tta == "flip") return 2;
  return tta == "five_crop" ? 5 : 1;
}

// Rounded as Python rounds: a half to the even number.
int Framing::shorter_side(int image_size) const { return static_cast<int>(std::nearbyint(image_size / crop_pct)); }

Framing read_framing(const std::filesystem::path &model) {
  const std::string json = read_description(model);
  Framing framing;
  try {
    framing.crop_mode = word_of(json, "crop_mode", {"center", "pad", "squash"});
    framing.crop_pct = share_of(json, "crop_pct", framing.crop_pct);
    if (word_of(json, "interpolation", {"bilinear", "bicubic"}) == "bicubic")
      framing.interpolation = Interpolation::bicubic;
    framing.tta = word_of(json, "tta", {"none", "flip", "five_crop"});
    if (framing.tta == "five_crop" && framing.crop_mode != "center") throw std::runtime_error("tta");
  } catch (const std::runtime_error &fault) {
    throw std::runtime_error(description_path(model).string() + ": has a " + fault.what() +
                             " that this program does not know; export the model anew, or build the program anew");
  }
  return framing;
}

Image frame(const Image &image, const Framing &framing, int size) {
  if (framing.crop_mode == "pad") return letterbox(image, size, framing.interpolation);
  if (framing.crop_mode == "squash") return resize(image, size, size, framing.interpolation);
  return resize_shorter_side(image, framing.shorter_side(size), framing.interpolation);
}

Image view_of(const Image &framed, const Framing &framing, int size, int view) {
  const int right = framed.width - size, bottom = framed.height - size;
  if (framing.tta == "five_crop" && view > 0) {
    const int corner = view - 1;  // upper left, upper right, lower left, lower right
    return crop(framed, corner % 2 == 0 ? 0 : right, corner < 2 ? 0 : bottom, size);
  }
  const Image middle = crop(framed, right / 2, bottom / 2, size);
  constexpr int MIRRORED = 2;  // as EXIF counts orientations
  return view == 0 ? middle : upright(middle, MIRRORED);
}
