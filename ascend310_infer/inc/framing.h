// How an image of any shape becomes the square that a model takes, and which views of it count, as the JSON beside the
// model says. The definition is that of src/data/framing.py.
#pragma once

#include <array>
#include <filesystem>
#include <string>

#include "resize.h"

// The keys of the same names. The values here are those of ImageNet evaluation.
struct Framing {
  std::string crop_mode = "center";  // or pad, squash
  double crop_pct = 0.875;           // share of the shorter side that the crop keeps; for center alone
  Interpolation interpolation = Interpolation::bilinear;
  std::string tta = "none";  // or flip, five_crop

  // How many views of an image count.
  int views() const;
  // The shorter side before the crop.
  int shorter_side(int image_size) const;
};

// Of the model M.mindir, from M.mindir.json; ImageNet's where that says nothing. Throws if the file has a word or a
// number that this program does not know.
Framing read_framing(const std::filesystem::path &model);

// An image, upright, as what the views of it are taken of: a square of `size` pixels, or more for five crops.
Image frame(const Image &image, const Framing &framing, int size);

// View number `view` of a framed image, a square of `size` pixels.
Image view_of(const Image &framed, const Framing &framing, int size, int view);
