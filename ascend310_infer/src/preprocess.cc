#include "preprocess.h"

#include <cstring>
#include <stdexcept>

#include "files.h"

namespace {
class RawPreprocess : public Preprocess {
 public:
  explicit RawPreprocess(size_t size) : size_(size) {}

  void fill(const std::filesystem::path &file, unsigned char *slot) override {
    const auto content = read_file(file);
    if (content.size() != size_) {
      throw std::runtime_error(file.string() + ": has " + std::to_string(content.size()) + " bytes, the model takes " +
                               std::to_string(size_));
    }
    std::memcpy(slot, content.data(), size_);
  }

  Images list(const std::filesystem::path &root) const override { return {list_files(root, ".bin"), {}}; }

 private:
  size_t size_;
};

void check_dvpp_can(const Framing &framing) {
  std::string beyond;
  if (framing.crop_mode == "pad") beyond = "crop_mode pad";
  if (framing.interpolation == Interpolation::bicubic) beyond = "interpolation bicubic";
  if (framing.views() > 1) beyond = "tta " + framing.tta;
  if (beyond.empty()) return;
  throw std::runtime_error("preprocessing DVPP: the JSON beside the model says " + beyond +
                           ", which DVPP does not do; take CPU");
}
}  // namespace

std::unique_ptr<Preprocess> make_preprocess(const std::string &kind, const ModelRunner &model,
                                            const Normalisation &normalisation, const Framing &framing,
                                            [[maybe_unused]] uint32_t device_id) {
  if (kind == "DVPP" && !normalisation.is_imagenets()) {
    throw std::runtime_error(
        "preprocessing DVPP: src/aipp.cfg normalises with the numbers of ImageNet, and the model has others; take CPU");
  }
  if (kind == "DVPP") check_dvpp_can(framing);
  if (kind == "RAW") return std::make_unique<RawPreprocess>(model.slot_size());
#ifdef HAVE_CPU_PREPROCESS
  if (kind == "CPU") return make_cpu_preprocess(model, normalisation, framing);
#endif
#ifdef HAVE_DVPP_PREPROCESS
  if (kind == "DVPP") return make_dvpp_preprocess(model, framing, device_id);
#endif
  throw std::runtime_error("preprocessing " + kind + ": not built into this program; build.sh tells why");
}
