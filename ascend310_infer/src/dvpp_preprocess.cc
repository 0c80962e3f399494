// Decode, resize and crop by the hardware of an Ascend 310. What comes out is YUV420SP; AIPP, at the head of the model
// (src/aipp.cfg), makes RGB of it and normalises.
#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>

#include "files.h"
#include "image_kind.h"
#include "include/dataset/execute.h"
#include "include/dataset/vision_ascend.h"
#include "preprocess.h"

namespace {
using mindspore::dataset::MapTargetDevice;
using mindspore::dataset::vision::DvppDecodeResizeCropJpeg;

// Height and width of a JPEG, from its frame header (ITU T.81, B.2.2). Throws if it has none.
std::pair<uint32_t, uint32_t> jpeg_size(const std::vector<unsigned char> &content, const std::string &name) {
  for (size_t at = 2; at + 9 < content.size() && content[at] == 0xFF;) {
    const unsigned marker = content[at + 1];
    const bool frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
    if (frame) return {content[at + 5] << 8 | content[at + 6], content[at + 7] << 8 | content[at + 8]};
    at += 2 + (content[at + 2] << 8 | content[at + 3]);
  }
  throw std::runtime_error(name + ": not a JPEG file");
}

class DvppPreprocess : public Preprocess {
 public:
  DvppPreprocess(const ModelRunner &model, const Framing &framing, uint32_t device_id)
      : size_(static_cast<uint32_t>(model.image_size())),
        slot_size_(model.slot_size()),
        framing_(framing),
        device_id_(device_id) {}

  void fill(const std::filesystem::path &file, unsigned char *views) override {
    const auto content = read_file(file);
    if (jpeg_orientation(content) != 1) {
      throw std::runtime_error(file.string() +
                               ": its EXIF data say that it is turned, which DVPP does not do; use --preprocess CPU");
    }
    const auto [height, width] = jpeg_size(content, file.string());
    if (height == 0 || width == 0) throw std::runtime_error(file.string() + ": not a JPEG file");
    const std::vector<uint32_t> square = {size_, size_};
    const auto operation = std::make_shared<DvppDecodeResizeCropJpeg>(
        square, framing_.crop_mode == "squash" ? square : in_proportion(height, width));
    mindspore::dataset::Execute execute(operation, MapTargetDevice::kAscend310, device_id_);
    const mindspore::MSTensor encoded(file.string(), mindspore::DataType::kNumberTypeUInt8,
                                      {static_cast<int64_t>(content.size())}, content.data(), content.size());
    mindspore::MSTensor image;
    const auto status = execute(encoded, &image);
    if (status.IsError()) {
      throw std::runtime_error(file.string() + ": DVPP cannot decode it; it takes JPEG of 32 to 8192 pixels a side");
    }
    if (image.DataSize() != slot_size_) {
      throw std::runtime_error(file.string() + ": DVPP gives " + std::to_string(image.DataSize()) +
                               " bytes, the model takes " + std::to_string(slot_size_) +
                               "; src/aipp.cfg must be for its size");
    }
    std::memcpy(views, image.Data().get(), slot_size_);
  }

 private:
  // Given two numbers DVPP resizes to them, so they are worked out for each image to keep its proportions.
  std::vector<uint32_t> in_proportion(uint32_t height, uint32_t width) const {
    const auto side = static_cast<uint32_t>(framing_.shorter_side(static_cast<int>(size_)));
    const uint32_t shorter = std::min(height, width);
    return {height * side / shorter, width * side / shorter};
  }

  uint32_t size_;
  size_t slot_size_;
  Framing framing_;
  uint32_t device_id_;
};
}  // namespace

std::unique_ptr<Preprocess> make_dvpp_preprocess(const ModelRunner &model, const Framing &framing, uint32_t device_id) {
  return std::make_unique<DvppPreprocess>(model, framing, device_id);
}
