// From a file to what the network takes.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "files.h"
#include "framing.h"
#include "model_runner.h"
#include "normalisation.h"

class Preprocess {
 public:
  virtual ~Preprocess() = default;
  // How many views of an image there are.
  virtual int views() const { return 1; }
  // Writes the views of an image, each of the size of a slot of the model's batch. Throws, with the file's name, if
  // that is not possible.
  virtual void fill(const std::filesystem::path &file, unsigned char *views) = 0;
  // The files of a folder that it reads. Throws as `list_images`.
  virtual Images list(const std::filesystem::path &root) const { return list_images(root); }
};

// kind: CPU (decode, resize, crop and normalise here), DVPP (decode, resize and crop by Ascend's hardware, normalise by
// AIPP) or RAW (files that hold the slot's bytes). Throws if this program was built without it or the model is not for
// it.
std::unique_ptr<Preprocess> make_preprocess(const std::string &kind, const ModelRunner &model,
                                            const Normalisation &normalisation, const Framing &framing,
                                            uint32_t device_id);

std::unique_ptr<Preprocess> make_cpu_preprocess(const ModelRunner &model, const Normalisation &normalisation,
                                                const Framing &framing);
std::unique_ptr<Preprocess> make_dvpp_preprocess(const ModelRunner &model, const Framing &framing, uint32_t device_id);
