#include "backbone_arguments.h"

#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

enum { PLAN, CONSTANTS, IMAGES, PARAMETERS };

// What the kernels count with an int.
constexpr int64_t MOST = std::numeric_limits<int>::max();
constexpr int MOST_CHANNELS = 1 << 16;

// A plan's first numbers, and those of a layer.
struct Header {
  int32_t batch_statistics, pooled, layers;
};
struct Row {
  int32_t kind, stride, activation, shortcut, in_channels, out_channels, same_padding;
};

[[noreturn]] void refuse(int layer, const std::string &fault) {
  throw std::invalid_argument("layer " + std::to_string(layer) + " of the plan " + fault);
}

std::vector<Row> rows_of(const int32_t *plan, int64_t numbers) {
  constexpr int64_t HEADER = sizeof(Header) / sizeof(int32_t), ROW = sizeof(Row) / sizeof(int32_t);
  if (numbers < HEADER) throw std::invalid_argument("the plan has no header");
  Header header;
  std::memcpy(&header, plan, sizeof header);
  if (header.layers < 1 || numbers != HEADER + ROW * header.layers)
    throw std::invalid_argument("the plan has " + std::to_string(numbers) + " numbers, which are not those of " +
                                std::to_string(header.layers) + " layers");
  if (header.batch_statistics != 0 && header.batch_statistics != 1)
    throw std::invalid_argument("the plan does not say which statistics to use");
  if (header.pooled != 0 && header.pooled != 1)
    throw std::invalid_argument("the plan does not say whether the features are pooled");
  std::vector<Row> rows(header.layers);
  std::memcpy(rows.data(), plan + HEADER, rows.size() * sizeof(Row));
  return rows;
}

// The only shortcut that the kernels know is that of an inverted residual: from the input of the depthwise convolution
// before this layer, or of the 1x1 convolution that widens that input.
bool is_inverted_residual(const std::vector<Row> &rows, int i) {
  const auto is = [&](int layer, Kind kind) { return layer >= 0 && rows[layer].kind == static_cast<int>(kind); };
  if (!is(i, Kind::pointwise) || !is(i - 1, Kind::depthwise)) return false;
  const bool has_wide = is(i - 2, Kind::pointwise) && !is(i - 3, Kind::depthwise);
  return rows[i].shortcut == i - 1 || (has_wide && rows[i].shortcut == i - 2);
}

void check_row(const std::vector<Row> &rows, int i) {
  const Row &row = rows[i];
  const auto kind = static_cast<Kind>(row.kind);
  if (kind != Kind::pointwise && kind != Kind::depthwise && kind != Kind::dense) refuse(i, "is of an unknown kind");
  if (row.stride != 1 && (row.stride != 2 || kind == Kind::pointwise))
    refuse(i, "has the stride " + std::to_string(row.stride));
  if (row.activation != 0 && row.activation != 1) refuse(i, "does not say whether it has an activation");
  if (row.same_padding != 0 && row.same_padding != 1) refuse(i, "does not say how it pads");
  for (const int channels : {row.in_channels, row.out_channels})
    if (channels < 1 || channels > MOST_CHANNELS) refuse(i, "has " + std::to_string(channels) + " channels");
  if (kind == Kind::depthwise && row.in_channels != row.out_channels) refuse(i, "changes the number of channels");
  if (i > 0 && kind == Kind::dense) refuse(i, "is a dense 3x3 convolution, which only the first can be");
  if (i > 0 && row.in_channels != rows[i - 1].out_channels) refuse(i, "does not take the channels of the one before");
  if (row.shortcut != -1 && !is_inverted_residual(rows, i))
    refuse(i, "has the shortcut " + std::to_string(row.shortcut) + ", which is not its inverted residual's input");
}

Shape weight_shape(const Layer &l) {
  switch (l.kind) {
    case Kind::pointwise:
      return {l.out_channels, l.in_channels, 1, 1};
    case Kind::depthwise:
      return {l.out_channels, 1, 3, 3};
    case Kind::dense:
      break;
  }
  return {l.out_channels, l.in_channels, 3, 3};
}

// The images' own size, whatever the number of channels: that is held against the plan's later.
Backbone backbone_of(const Arguments &arguments) {
  arguments.expect_at_least(PARAMETERS);
  const int32_t *plan = arguments.integers(PLAN, "plan");
  const Shape images = arguments.shape(IMAGES, "images");
  if (images.rank != 4) throw std::invalid_argument("images of shape " + images.text() + " are not N x C x H x W");
  return checked_backbone(plan, arguments.shape(PLAN, "plan").sizes[0], images.sizes[0], images.sizes[2],
                          images.sizes[3]);
}

}  // namespace

Backbone checked_backbone(const int32_t *plan, int64_t numbers, int64_t images, int64_t height, int64_t width) {
  if (images < 1 || height < 1 || width < 1 || images > MOST || height > MOST / images ||
      width > MOST / images / height)
    throw std::invalid_argument("there are no " + std::to_string(images) + " images of " + std::to_string(height) +
                                "x" + std::to_string(width) + " pixels");
  const std::vector<Row> rows = rows_of(plan, numbers);
  const int layers = static_cast<int>(rows.size());
  for (int i = 0; i < layers; ++i) check_row(rows, i);
  Backbone backbone(plan, static_cast<int>(images), static_cast<int>(height), static_cast<int>(width));
  for (int i = 0; i < layers; ++i) {
    const Layer &l = backbone.layers[i];
    if (images > MOST / l.in_blocks() || images > MOST / l.out_blocks()) refuse(i, "has too many tasks");
    if (l.shortcut < 0) continue;
    const Layer &start = backbone.layers[l.shortcut];
    if (start.in_channels != l.out_channels || start.height != l.out_height || start.width != l.out_width)
      refuse(i, "has a shortcut of another shape");
  }
  return backbone;
}

Shape features_shape(const Backbone &backbone) {
  const Layer &l = backbone.last();
  return {l.images, l.out_channels, backbone.pooled ? 1 : l.out_height, backbone.pooled ? 1 : l.out_width};
}

Shape saved_shape(const Backbone &backbone) { return {static_cast<int64_t>(backbone.saved_floats())}; }

std::vector<float *> layer_arrays(const Arguments &arguments, int first, const Backbone &backbone,
                                  std::initializer_list<const char *> names) {
  std::vector<float *> arrays;
  for (const char *name : names)
    for (const Layer &l : backbone.layers)
      arrays.push_back(
          arguments.floats(first++, name, name == *names.begin() ? weight_shape(l) : Shape{l.out_channels}));
  return arrays;
}

BackboneInputs::BackboneInputs(const Arguments &arguments) : backbone(backbone_of(arguments)) {
  const int layers = static_cast<int>(backbone.layers.size());
  end = PARAMETERS + 5 * layers;
  arguments.expect_at_least(end);
  const Layer &first = backbone.first();
  images_shape = {first.images, first.in_channels, first.height, first.width};
  images = arguments.floats(IMAGES, "images", images_shape);
  const float *constants = arguments.floats(CONSTANTS, "constants", {layers, 2});
  const std::vector<float *> arrays =
      layer_arrays(arguments, PARAMETERS, backbone, {"weight", "gamma", "beta", "moving mean", "moving variance"});
  const std::vector<void *> parameters(arrays.begin(), arrays.end());
  backbone.bind(parameters.data(), constants);
}
