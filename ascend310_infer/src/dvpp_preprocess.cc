// Decode, resize and crop by the hardware of an Ascend 310. What comes out is YUV420SP; AIPP, at the head of the model
// (src/aipp.cfg), makes RGB of it and normalises.
#include <cstring>
#include <memory>
#include <stdexcept>

#include "files.h"
#include "include/dataset/execute.h"
#include "include/dataset/vision_ascend.h"
#include "preprocess.h"

namespace {
class DvppPreprocess : public Preprocess {
 public:
  DvppPreprocess(const ModelRunner &model, uint32_t device_id)
      : size_(static_cast<uint32_t>(model.image_size())),
        slot_size_(model.slot_size()),
        operation_(std::make_shared<mindspore::dataset::vision::DvppDecodeResizeCropJpeg>(
            std::vector<uint32_t>{size_, size_},
            std::vector<uint32_t>{static_cast<uint32_t>(ResizeSize(static_cast<int>(size_)))})),
        execute_(operation_, mindspore::MapTargetDevice::kAscend310, device_id) {}

  void Fill(const std::filesystem::path &file, unsigned char *slot) override {
    const auto content = ReadFile(file);
    mindspore::MSTensor encoded(file.string(), mindspore::DataType::kNumberTypeUInt8,
                                {static_cast<int64_t>(content.size())}, content.data(), content.size());
    mindspore::MSTensor picture;
    const auto status = execute_(encoded, &picture);
    if (status.IsError()) {
      throw std::runtime_error(file.string() + ": DVPP cannot decode it; it takes JPEG of 32 to 8192 pixels a side");
    }
    if (picture.DataSize() != slot_size_) {
      throw std::runtime_error(file.string() + ": DVPP gives " + std::to_string(picture.DataSize()) +
                               " bytes, the model takes " + std::to_string(slot_size_) +
                               "; src/aipp.cfg must be for its size");
    }
    std::memcpy(slot, picture.Data().get(), slot_size_);
  }

  std::vector<std::string> endings() const override { return {".jpg", ".jpeg"}; }

 private:
  uint32_t size_;
  size_t slot_size_;
  std::shared_ptr<mindspore::dataset::vision::DvppDecodeResizeCropJpeg> operation_;
  mindspore::dataset::Execute execute_;
};
}  // namespace

std::unique_ptr<Preprocess> MakeDvppPreprocess(const ModelRunner &model, uint32_t device_id) {
  return std::make_unique<DvppPreprocess>(model, device_id);
}
