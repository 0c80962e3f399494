// What Python sees: the operators, in the form that MindSpore's ops.Custom(func_type="aot") calls, and functions for
// ctypes. What they are given is checked before it is read. After a fault they write one line to stderr and return
// something else than 0, or -1 for a number that is wanted.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.h"
#include "backbone_arguments.h"
#include "classifier.h"
#include "optimizer.h"
#include "shm_all_reduce.h"
#include "thread_pool.h"
#include "workspace.h"

namespace {

// Those that this process has joined; their numbers are the places here. Never destroyed: the process may exit while an
// operator runs.
auto &all_reduces = *new std::vector<std::unique_ptr<ShmAllReduce>>;

constexpr int MOST_THREADS = 1024;

// One at a time: exceptions of `f` become a line and an error code.
template <class F> int guarded(const char *name, F &&f) {
  try {
    const std::lock_guard<std::mutex> lock(kernel_lock());
    f();
    return 0;
  } catch (const std::bad_alloc &) {
    std::fprintf(stderr, "CPU kernels: %s: not enough memory\n", name);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "CPU kernels: %s: %s\n", name, error.what());
  } catch (...) {
    std::fprintf(stderr, "CPU kernels: %s: an unknown error\n", name);
  }
  return 1;
}

namespace operators {

// Outputs: features, saved activations.
void backbone_forward(const Arguments &arguments) {
  const BackboneInputs in(arguments);
  arguments.expect_count(in.end + 2);
  float *features = arguments.floats(in.end, "features", features_shape(in.backbone));
  float *saved = arguments.floats(in.end + 1, "saved activations", saved_shape(in.backbone));
  prefer_huge_pages(saved, in.backbone.saved_floats() * sizeof(float));
  in.backbone.forward(in.images, features, saved);
}

// Output: features.
void backbone_infer(const Arguments &arguments) {
  const BackboneInputs in(arguments);
  arguments.expect_count(in.end + 1);
  in.backbone.infer(in.images, arguments.floats(in.end, "features", features_shape(in.backbone)));
}

// Further inputs: weight and bias of the classifier behind a backbone with pooling. Output: logits.
void network_infer(const Arguments &arguments) {
  const BackboneInputs in(arguments);
  const int weight_at = in.end, bias_at = in.end + 1, logits_at = in.end + 2;
  arguments.expect_count(logits_at + 1);
  if (!in.backbone.pooled) throw std::invalid_argument("the plan does not pool the features, which classifying needs");
  const int images = in.backbone.last().images, channels = in.backbone.last().out_channels;
  const Shape bias_shape = arguments.shape(bias_at, "bias of the classifier");
  const float *bias = arguments.floats(bias_at, "bias of the classifier", {bias_shape.sizes[0]});
  const int64_t classes = bias_shape.sizes[0];
  const float *weight = arguments.floats(weight_at, "weight of the classifier", {classes, channels});
  float *logits = arguments.floats(logits_at, "logits", {images, classes});
  const AlignedFloats features = allocate_floats(static_cast<size_t>(images) * channels);
  in.backbone.infer(in.images, features.get());
  classify(features.get(), images, channels, weight, bias, static_cast<int>(classes), logits);
}

// Further inputs: saved activations, gradient of the features. Outputs: the gradients of all weights, gammas, betas,
// and, if there is one more, of the images.
void backbone_backward(const Arguments &arguments) {
  const BackboneInputs in(arguments);
  const int layers = static_cast<int>(in.backbone.layers.size());
  const int outputs = in.end + 2, end = outputs + 3 * layers;
  const bool images_too = arguments.count() == end + 1;
  arguments.expect_count(images_too ? end + 1 : end);
  const float *saved = arguments.floats(in.end, "saved activations", saved_shape(in.backbone));
  const float *gradient = arguments.floats(in.end + 1, "gradient of the features", features_shape(in.backbone));
  const std::vector<float *> gradients = layer_arrays(
      arguments, outputs, in.backbone, {"gradient of a weight", "gradient of a gamma", "gradient of a beta"});
  float *images = images_too ? arguments.floats(end, "gradient of the images", in.images_shape) : nullptr;
  in.backbone.backward(in.images, saved, gradient, gradients.data(), gradients.data() + layers,
                       gradients.data() + 2 * layers, images);
}

// What an optimizer's update takes behind the numbers of its rule, from argument `decays` on: a weight decay each, a
// factor of the learning rate each, then all parameters, all their moments, if there are two all their second moments
// (all three updated in place), all gradients. Output: one number, for the framework to have something to wait for.
std::vector<ParameterSpan> parameters_to_update(const Arguments &arguments, int decays, int moments) {
  const int factors = decays + 1, first = decays + 2, each = 1 + moments + 1;
  const int parameters = (arguments.count() - first - 1) / each;
  arguments.expect_at_least(first + each + 1);
  arguments.expect_count(first + each * parameters + 1);
  const float *weight_decays = arguments.floats(decays, "weight decays", {parameters});
  const float *rate_factors = arguments.floats(factors, "factors of the learning rate", {parameters});
  std::vector<ParameterSpan> all(parameters);
  for (int i = 0; i < parameters; ++i) {
    const int value = first + i, moment = value + parameters, gradient = moment + moments * parameters;
    const Shape shape = arguments.shape(value, "parameter");
    all[i] = {arguments.floats(value, "parameter", shape),
              arguments.floats(moment, "moment", shape),
              arguments.floats(gradient, "gradient", shape),
              shape.elements(),
              weight_decays[i],
              rate_factors[i]};
    if (moments == 2) all[i].second_moment = arguments.floats(moment + parameters, "second moment", shape);
  }
  return all;
}

// Inputs: learning rate, momentum, norm to clip to, whether to look ahead (1 or 0), then `parameters_to_update`.
void momentum_update(const Arguments &arguments) {
  enum { RATE, MOMENTUM, CLIP_NORM, NESTEROV, DECAYS };
  const std::vector<ParameterSpan> all = parameters_to_update(arguments, DECAYS, 1);
  const MomentumRule rule = {*arguments.number(RATE, "learning rate"), *arguments.number(MOMENTUM, "momentum"),
                             *arguments.number(CLIP_NORM, "norm to clip to"),
                             *arguments.number(NESTEROV, "whether to look ahead") != 0};
  float *done = arguments.number(arguments.count() - 1, "output");
  momentum_step(all, rule);
  *done = 1.0f;
}

// Inputs: learning rate, number of updates with this one, both betas, epsilon, norm to clip to, then
// `parameters_to_update`.
void adamw_update(const Arguments &arguments) {
  enum { RATE, UPDATES, BETA1, BETA2, EPSILON, CLIP_NORM, DECAYS };
  const std::vector<ParameterSpan> all = parameters_to_update(arguments, DECAYS, 2);
  const AdamWRule rule = {*arguments.number(RATE, "learning rate"), *arguments.number(UPDATES, "number of updates"),
                          *arguments.number(BETA1, "beta1"),        *arguments.number(BETA2, "beta2"),
                          *arguments.number(EPSILON, "epsilon"),    *arguments.number(CLIP_NORM, "norm to clip to")};
  float *done = arguments.number(arguments.count() - 1, "output");
  adamw_step(all, rule);
  *done = 1.0f;
}

// Inputs: 1 - decay, all EMAs (updated in place), all values. Output: one number.
void ema_update(const Arguments &arguments) {
  constexpr int FIRST = 1;
  const int parameters = (arguments.count() - FIRST - 1) / 2;
  arguments.expect_at_least(FIRST + 2 + 1);
  arguments.expect_count(FIRST + 2 * parameters + 1);
  std::vector<EmaSpan> all(parameters);
  for (int i = 0; i < parameters; ++i) {
    const int ema = FIRST + i, value = ema + parameters;
    const Shape shape = arguments.shape(ema, "EMA");
    all[i] = {arguments.floats(ema, "EMA", shape), arguments.floats(value, "value", shape), shape.elements()};
  }
  const float one_minus_decay = *arguments.number(0, "1 - decay");
  float *done = arguments.number(arguments.count() - 1, "output");
  ::ema_update(all, one_minus_decay);
  *done = 1.0f;
}

// Inputs: any arrays. Output: 1 if all their numbers are finite, else 0.
void all_finite(const Arguments &arguments) {
  arguments.expect_at_least(1);
  const int output = arguments.count() - 1;
  std::vector<Span> arrays(output);
  for (int i = 0; i < output; ++i) arrays[i] = {arguments.floats(i, "array"), arguments.shape(i, "array").elements()};
  float *finite = arguments.number(output, "output");
  *finite = are_finite(arrays) ? 1.0f : 0.0f;
}

// Inputs: the number of an all-reduce, then arrays. Outputs: their sums over the ranks.
void shm_all_reduce(const Arguments &arguments) {
  const int arrays = (arguments.count() - 1) / 2;
  arguments.expect_at_least(3);
  arguments.expect_count(1 + 2 * arrays);
  std::vector<Span> given(arrays);
  std::vector<float *> sums(arrays);
  for (int i = 0; i < arrays; ++i) {
    const Shape shape = arguments.shape(1 + i, "array");
    given[i] = {arguments.floats(1 + i, "array", shape), shape.elements()};
    sums[i] = arguments.floats(1 + arrays + i, "sum", shape);
  }
  const int32_t handle = arguments.integer(0, "number of the all-reduce");
  if (handle < 0 || static_cast<size_t>(handle) >= all_reduces.size())
    throw std::invalid_argument("there is no all-reduce " + std::to_string(handle));
  all_reduces[static_cast<size_t>(handle)]->sum(given, sums);
}

}  // namespace operators

}  // namespace

// What MindSpore looks up by name and calls; two of its arguments are of no use here.
#define OPERATOR(name)                                                                                            \
  extern "C" int name(int count, void **data, int *ranks, int64_t **shapes, const char **types, void *, void *) { \
    return guarded(#name, [&] { operators::name(Arguments(count, data, ranks, shapes, types)); });                \
  }
OPERATOR(backbone_forward)
OPERATOR(backbone_infer)
OPERATOR(network_infer)
OPERATOR(backbone_backward)
OPERATOR(momentum_update)
OPERATOR(adamw_update)
OPERATOR(ema_update)
OPERATOR(all_finite)
OPERATOR(shm_all_reduce)

// A new file for an all-reduce, for Python to close; -1 if that cannot be had.
extern "C" int shm_all_reduce_file(int64_t ranks, int64_t floats) {
  int file = -1;
  guarded("shm_all_reduce_file", [&] { file = ShmAllReduce::create_file(ranks, floats); });
  return file;
}

// The number of a new all-reduce over the memory `file`; -1 if that cannot be had.
extern "C" int shm_all_reduce_join(int file, int64_t rank, int64_t ranks, int64_t floats) {
  int handle = -1;
  guarded("shm_all_reduce_join", [&] {
    all_reduces.push_back(std::make_unique<ShmAllReduce>(file, rank, ranks, floats));
    handle = static_cast<int>(all_reduces.size()) - 1;
  });
  return handle;
}

// Writes the channels, height and width of the features and the floats of the saved activations for images of this
// size, given a plan of so many numbers.
extern "C" int backbone_shapes(const int32_t *plan, int64_t numbers, int64_t images, int64_t height, int64_t width,
                               int64_t *out) {
  return guarded("backbone_shapes", [&] {
    const Backbone backbone = checked_backbone(plan, numbers, images, height, width);
    const Shape features = features_shape(backbone);
    const int64_t found[] = {features.sizes[1], features.sizes[2], features.sizes[3],
                             static_cast<int64_t>(backbone.saved_floats())};
    std::copy(std::begin(found), std::end(found), out);
  });
}

extern "C" int use_threads(int count) {
  return guarded("use_threads", [&] {
    if (count < 1 || count > MOST_THREADS)
      throw std::invalid_argument(std::to_string(count) + " threads cannot be used, only 1 to " +
                                  std::to_string(MOST_THREADS));
    set_thread_count(count);
  });
}
