#include "model_runner.h"

#include <cstring>
#include <memory>
#include <stdexcept>

#include "include/api/context.h"

using mindspore::MSTensor;

namespace {
std::shared_ptr<mindspore::Context> make_context(const Device &device) {
  auto context = std::make_shared<mindspore::Context>();
  if (device.type == "CPU") {
    context->MutableDeviceInfo().push_back(std::make_shared<mindspore::CPUDeviceInfo>());
    return context;
  }
  if (device.type == "GPU") {
    auto gpu = std::make_shared<mindspore::GPUDeviceInfo>();
    gpu->SetDeviceID(device.id);
    context->MutableDeviceInfo().push_back(gpu);
    return context;
  }
  auto ascend = std::make_shared<mindspore::AscendDeviceInfo>();
  ascend->SetDeviceID(device.id);
  if (!device.aipp.empty()) ascend->SetInsertOpConfigPath(device.aipp);
  context->MutableDeviceInfo().push_back(ascend);
  return context;
}

std::string text_of(const std::vector<int64_t> &shape) {
  std::string text;
  for (int64_t side : shape) text += (text.empty() ? "" : "x") + std::to_string(side);
  return text;
}

void check(const mindspore::Status &status, const std::string &what) {
  if (status.IsError()) {
    throw std::runtime_error(what + ": MindSpore Lite reports status " + std::to_string(status.StatusCode()));
  }
}
}  // namespace

ModelRunner::ModelRunner(const std::string &path, const Device &device) {
  check(model_.Build(path, mindspore::kMindIR, make_context(device)),
        path + ": cannot be loaded on " + device.type + "; the file is damaged, or this MindSpore Lite reads no such " +
            "MindIR version, or was built without that device");
  auto inputs = model_.GetInputs();
  if (inputs.size() != 1 || inputs[0].Shape().size() != 4) {
    throw std::runtime_error(path + ": does not take one batch of pictures");
  }
  if (inputs[0].Shape()[0] == -1) {  // any batch size: one picture at a time
    auto shape = inputs[0].Shape();
    shape[0] = 1;
    check(model_.Resize(inputs, {shape}), path + ": cannot be set to batches of 1");
    inputs = model_.GetInputs();
  }
  input_ = inputs[0];
  const auto &shape = input_.Shape();
  channels_first_ = shape[1] == 3;
  image_size_ = channels_first_ ? shape[2] : shape[1];
  const int64_t width = channels_first_ ? shape[3] : shape[2];
  if (shape[0] < 1 || (!channels_first_ && shape[3] != 3) || image_size_ < 1 || image_size_ != width) {
    throw std::runtime_error(path + ": takes " + text_of(shape) + ", not a batch of square pictures in RGB");
  }
}

std::vector<float> ModelRunner::predict() {
  std::vector<MSTensor> outputs;
  check(model_.Predict({input_}, &outputs), "prediction");
  if (outputs.size() != 1 || outputs[0].DataType() != mindspore::DataType::kNumberTypeFloat32 ||
      outputs[0].Shape().empty() || outputs[0].Shape()[0] != batch_size()) {
    throw std::runtime_error("prediction: the model does not give one row of float32 for each picture");
  }
  std::vector<float> logits(static_cast<size_t>(outputs[0].ElementNum()));
  std::memcpy(logits.data(), outputs[0].MutableData(), logits.size() * sizeof(float));
  return logits;
}
