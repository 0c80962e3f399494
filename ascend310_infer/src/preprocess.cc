#include "preprocess.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "files.h"

namespace {
constexpr double CROP_PCT = 0.875;

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
}  // namespace

int resize_size(int image_size) { return static_cast<int>(std::lround(image_size / CROP_PCT)); }

std::unique_ptr<Preprocess> make_preprocess(const std::string &kind, const ModelRunner &model,
                                            const Normalisation &normalisation, [[maybe_unused]] uint32_t device_id) {
  if (kind == "DVPP" && !normalisation.is_imagenets()) {
    throw std::runtime_error(
        "preprocessing DVPP: src/aipp.cfg normalises with the numbers of ImageNet, and the model has others; take CPU");
  }
  if (kind == "RAW") return std::make_unique<RawPreprocess>(model.slot_size());
#ifdef HAVE_CPU_PREPROCESS
  if (kind == "CPU") return make_cpu_preprocess(model, normalisation);
#endif
#ifdef HAVE_DVPP_PREPROCESS
  if (kind == "DVPP") return make_dvpp_preprocess(model, device_id);
#endif
  throw std::runtime_error("preprocessing " + kind + ": not built into this program; build.sh tells why");
}
