// Decode, frame and normalise on the CPU, as src/data/transforms.py does in evaluation.
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include <jpeglib.h>  // after <cstdio>, whose FILE it uses

#include "files.h"
#include "image_kind.h"
#include "preprocess.h"

namespace {
constexpr uint64_t LARGEST = 1'000'000'000;  // pixels, as src/data/images.py has it

// libjpeg's way to report a fault is a function that must not return.
struct ErrorHandler {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

void on_error(j_common_ptr decoder) {
  auto *handler = reinterpret_cast<ErrorHandler *>(decoder->err);
  handler->manager.format_message(decoder, handler->message);
  std::longjmp(handler->jump, 1);
}

// RGB of pixels of four inks, as Pillow makes it. Adobe's files have the paper's part of each ink, not the ink's.
std::vector<unsigned char> rgb_of_inks(const std::vector<unsigned char> &cmyk, bool is_adobe) {
  std::vector<unsigned char> rgb;
  rgb.reserve(cmyk.size() / 4 * 3);
  for (size_t i = 0; i < cmyk.size(); i += 4) {
    const unsigned light = is_adobe ? cmyk[i + 3] : 255U - cmyk[i + 3];
    for (size_t c = 0; c < 3; ++c) {
      const unsigned product = (is_adobe ? 255U - cmyk[i + c] : cmyk[i + c]) * light + 128;
      rgb.push_back(static_cast<unsigned char>(light - ((product + (product >> 8)) >> 8)));
    }
  }
  return rgb;
}

// Decodes into `image`; false, with the reason in `handler`, if that is not possible. A cut file is a fault, too: to
// libjpeg it is a warning.
bool decode_jpeg(const std::vector<unsigned char> &content, Image *image, ErrorHandler *handler) {
  jpeg_decompress_struct decoder;
  decoder.err = jpeg_std_error(&handler->manager);
  handler->manager.error_exit = on_error;
  handler->manager.output_message = [](j_common_ptr) {};
  if (setjmp(handler->jump) != 0) {
    jpeg_destroy_decompress(&decoder);
    return false;
  }
  jpeg_create_decompress(&decoder);
  jpeg_mem_src(&decoder, content.data(), content.size());
  jpeg_read_header(&decoder, TRUE);
  if (static_cast<uint64_t>(decoder.image_width) * decoder.image_height > LARGEST) {
    std::strcpy(handler->message, "too large, over 1,000 megapixels");
    jpeg_destroy_decompress(&decoder);
    return false;
  }
  const bool has_inks = decoder.jpeg_color_space == JCS_CMYK || decoder.jpeg_color_space == JCS_YCCK;
  decoder.out_color_space = has_inks ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&decoder);
  image->width = static_cast<int>(decoder.output_width);
  image->height = static_cast<int>(decoder.output_height);
  const size_t channels = has_inks ? 4 : 3;
  image->rgb.resize(channels * decoder.output_width * decoder.output_height);
  while (decoder.output_scanline < decoder.output_height) {
    JSAMPROW row = image->rgb.data() + channels * decoder.output_width * decoder.output_scanline;
    jpeg_read_scanlines(&decoder, &row, 1);
  }
  jpeg_finish_decompress(&decoder);
  if (has_inks) image->rgb = rgb_of_inks(image->rgb, decoder.saw_Adobe_marker);
  const long warnings = handler->manager.num_warnings;
  if (warnings != 0) handler->manager.format_message(reinterpret_cast<j_common_ptr>(&decoder), handler->message);
  jpeg_destroy_decompress(&decoder);
  return warnings == 0;
}

class CpuPreprocess : public Preprocess {
 public:
  CpuPreprocess(const ModelRunner &model, const Normalisation &normalisation, const Framing &framing)
      : size_(static_cast<int>(model.image_size())),
        channels_first_(model.channels_first()),
        normalisation_(normalisation),
        framing_(framing) {}

  int views() const override { return framing_.views(); }

  void fill(const std::filesystem::path &file, unsigned char *views) override {
    const auto content = read_file(file);
    Image image;
    ErrorHandler handler{};
    if (!decode_jpeg(content, &image, &handler)) {
      throw std::runtime_error(file.string() + ": cannot be decoded as JPEG (" + handler.message + ")");
    }
    image = frame(upright(image, jpeg_orientation(content)), framing_, size_);
    auto *out = reinterpret_cast<float *>(views);
    for (int view = 0; view < framing_.views(); ++view, out += 3 * size_ * size_) {
      normalise(view_of(image, framing_, size_, view), out);
    }
  }

 private:
  void normalise(const Image &image, float *out) const {
    for (int y = 0; y < size_; ++y) {
      for (int x = 0; x < size_; ++x) {
        const size_t pixel = 3 * (static_cast<size_t>(y) * image.width + static_cast<size_t>(x));
        for (int c = 0; c < 3; ++c) {
          const int place = channels_first_ ? (c * size_ + y) * size_ + x : (y * size_ + x) * 3 + c;
          out[place] = (static_cast<float>(image.rgb[pixel + c]) - normalisation_.mean[c]) / normalisation_.std[c];
        }
      }
    }
  }

  int size_;
  bool channels_first_;
  Normalisation normalisation_;
  Framing framing_;
};
}  // namespace

std::unique_ptr<Preprocess> make_cpu_preprocess(const ModelRunner &model, const Normalisation &normalisation,
                                                const Framing &framing) {
  if (!model.takes_float32()) throw std::runtime_error("preprocessing CPU: the model does not take float32");
  return std::make_unique<CpuPreprocess>(model, normalisation, framing);
}
