// How a model's images are normalised, as the JSON beside the model says.
#pragma once

#include <array>
#include <filesystem>

// Pixels of 0 to 255 become (pixel - mean) / std. The values here are those of src/normalisation.py for ImageNet.
struct Normalisation {
  std::array<float, 3> mean = {255 * 0.485F, 255 * 0.456F, 255 * 0.406F};
  std::array<float, 3> std = {255 * 0.229F, 255 * 0.224F, 255 * 0.225F};

  bool is_imagenets() const;
};

// Of the model M.mindir, from M.mindir.json as export.py writes it; ImageNet's if there is no such file. Pixels as they
// are if the model normalises them itself. Throws if the file has numbers that cannot be.
Normalisation read_normalisation(const std::filesystem::path &model);
