// A MindIR model on one device, through MindSpore Lite's Model API.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "include/api/model.h"

struct Device {
  std::string type = "Ascend";  // or GPU, CPU
  uint32_t id = 0;
  std::string aipp;  // file of AIPP's settings; empty for none
};

class ModelRunner {
 public:
  // Throws if the model cannot be loaded or does not take one batch of images and give one row for each.
  ModelRunner(const std::string &path, const Device &device);

  int64_t batch_size() const { return input_.Shape()[0]; }
  // Height and width of the images that it takes.
  int64_t image_size() const { return image_size_; }
  bool takes_float32() const { return input_.DataType() == mindspore::DataType::kNumberTypeFloat32; }
  bool channels_first() const { return channels_first_; }
  // Where image `n` of the batch goes, and how many bytes it has.
  unsigned char *slot(int64_t n) { return static_cast<unsigned char *>(input_.MutableData()) + n * slot_size(); }
  size_t slot_size() const { return input_.DataSize() / static_cast<size_t>(batch_size()); }

  // Computes the batch in the slots; its logits, batch_size x classes. Throws if the device reports a fault.
  std::vector<float> predict();

 private:
  mindspore::Model model_;
  mindspore::MSTensor input_{nullptr};
  int64_t image_size_ = 0;
  bool channels_first_ = true;
};
