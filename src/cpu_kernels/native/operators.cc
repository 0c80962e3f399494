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
#include "chain_arguments.h"
#include "exchange.h"
#include "optimizer.h"
#include "threads.h"

namespace {

// Those that this process has joined; their numbers are the places here. Never destroyed: the process may exit while an
// operator runs.
auto &exchanges = *new std::vector<std::unique_ptr<Exchange>>;

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

// Outputs: features, stash.
void chain_forward(const Arguments &arguments) {
  const ChainInputs in(arguments);
  arguments.expect_count(in.end + 2);
  float *features = arguments.floats(in.end, "features", features_shape(in.chain));
  float *stash = arguments.floats(in.end + 1, "stash", stash_shape(in.chain));
  prefer_huge_pages(stash, in.chain.stash_floats() * sizeof(float));
  in.chain.forward(in.images, features, stash);
}

// Output: features.
void chain_infer(const Arguments &arguments) {
  const ChainInputs in(arguments);
  arguments.expect_count(in.end + 1);
  in.chain.infer(in.images, arguments.floats(in.end, "features", features_shape(in.chain)));
}

// Further inputs: stash, gradient of the features. Outputs: the gradients of all weights, gammas, betas, and, if there
// is one more, of the images.
void chain_backward(const Arguments &arguments) {
  const ChainInputs in(arguments);
  const int layers = static_cast<int>(in.chain.layers.size());
  const int outputs = in.end + 2, end = outputs + 3 * layers;
  const bool images_too = arguments.count() == end + 1;
  arguments.expect_count(images_too ? end + 1 : end);
  const float *stash = arguments.floats(in.end, "stash", stash_shape(in.chain));
  const float *gradient = arguments.floats(in.end + 1, "gradient of the features", features_shape(in.chain));
  const std::vector<float *> gradients = layer_arrays(
      arguments, outputs, in.chain, {"gradient of a weight", "gradient of a gamma", "gradient of a beta"});
  float *images = images_too ? arguments.floats(end, "gradient of the images", in.images_shape) : nullptr;
  in.chain.backward(in.images, stash, gradient, gradients.data(), gradients.data() + layers,
                    gradients.data() + 2 * layers, images);
}

// Inputs: learning rate, momentum, norm to clip to, whether to look ahead (1 or 0), a weight decay each, then all
// parameters, all their moments (both updated in place), all gradients. Output: one number, for the framework to have
// something to wait for.
void momentum_update(const Arguments &arguments) {
  enum { RATE, MOMENTUM, CLIP_NORM, NESTEROV, DECAYS, FIRST };
  const int trained = (arguments.count() - FIRST - 1) / 3;
  arguments.expect_at_least(FIRST + 3 + 1);
  arguments.expect_count(FIRST + 3 * trained + 1);
  const float *decays = arguments.floats(DECAYS, "weight decays", {trained});
  std::vector<Trained> all(trained);
  for (int i = 0; i < trained; ++i) {
    const int value = FIRST + i, moment = value + trained, gradient = moment + trained;
    const Shape shape = arguments.shape(value, "parameter");
    all[i] = {arguments.floats(value, "parameter", shape), arguments.floats(moment, "moment", shape),
              arguments.floats(gradient, "gradient", shape), shape.elements(), decays[i]};
  }
  const MomentumRule rule = {*arguments.number(RATE, "learning rate"), *arguments.number(MOMENTUM, "momentum"),
                             *arguments.number(CLIP_NORM, "norm to clip to"),
                             *arguments.number(NESTEROV, "whether to look ahead") != 0};
  float *done = arguments.number(arguments.count() - 1, "output");
  momentum_step(all, rule);
  *done = 1.0f;
}

// Inputs: the share of a value that its mean takes, all means (updated in place), all values. Output: one number.
void average_update(const Arguments &arguments) {
  constexpr int FIRST = 1;
  const int averaged = (arguments.count() - FIRST - 1) / 2;
  arguments.expect_at_least(FIRST + 2 + 1);
  arguments.expect_count(FIRST + 2 * averaged + 1);
  std::vector<Averaged> all(averaged);
  for (int i = 0; i < averaged; ++i) {
    const int mean = FIRST + i, value = mean + averaged;
    const Shape shape = arguments.shape(mean, "mean");
    all[i] = {arguments.floats(mean, "mean", shape), arguments.floats(value, "value", shape), shape.elements()};
  }
  const float share = *arguments.number(0, "share");
  float *done = arguments.number(arguments.count() - 1, "output");
  follow(all, share);
  *done = 1.0f;
}

// Inputs: any arrays. Output: 1 if all their numbers are finite, else 0.
void all_finite(const Arguments &arguments) {
  arguments.expect_at_least(1);
  const int output = arguments.count() - 1;
  std::vector<Numbers> arrays(output);
  for (int i = 0; i < output; ++i)
    arrays[i] = {arguments.floats(i, "array"), arguments.shape(i, "array").elements()};
  float *finite = arguments.number(output, "output");
  *finite = are_finite(arrays) ? 1.0f : 0.0f;
}

// Inputs: the number of an exchange, then arrays. Outputs: their sums over the ranks.
void sum_over_ranks(const Arguments &arguments) {
  const int arrays = (arguments.count() - 1) / 2;
  arguments.expect_at_least(3);
  arguments.expect_count(1 + 2 * arrays);
  std::vector<Numbers> given(arrays);
  std::vector<float *> sums(arrays);
  for (int i = 0; i < arrays; ++i) {
    const Shape shape = arguments.shape(1 + i, "array");
    given[i] = {arguments.floats(1 + i, "array", shape), shape.elements()};
    sums[i] = arguments.floats(1 + arrays + i, "sum", shape);
  }
  const int32_t handle = arguments.integer(0, "number of the exchange");
  if (handle < 0 || static_cast<size_t>(handle) >= exchanges.size())
    throw std::invalid_argument("there is no exchange " + std::to_string(handle));
  exchanges[static_cast<size_t>(handle)]->sum(given, sums);
}

}  // namespace operators

}  // namespace

// What MindSpore looks up by name and calls; two of its arguments are of no use here.
#define OPERATOR(name)                                                                                           \
  extern "C" int name(int count, void **data, int *ranks, int64_t **shapes, const char **types, void *, void *) { \
    return guarded(#name, [&] { operators::name(Arguments(count, data, ranks, shapes, types)); });               \
  }
OPERATOR(chain_forward)
OPERATOR(chain_infer)
OPERATOR(chain_backward)
OPERATOR(momentum_update)
OPERATOR(average_update)
OPERATOR(all_finite)
OPERATOR(sum_over_ranks)

// A new file for an exchange, for Python to close; -1 if that cannot be had.
extern "C" int exchange_file(int64_t ranks, int64_t floats) {
  int file = -1;
  guarded("exchange_file", [&] { file = Exchange::create_file(ranks, floats); });
  return file;
}

// The number of a new exchange over the memory `file`; -1 if that cannot be had.
extern "C" int exchange_join(int file, int64_t rank, int64_t ranks, int64_t floats) {
  int handle = -1;
  guarded("exchange_join", [&] {
    exchanges.push_back(std::make_unique<Exchange>(file, rank, ranks, floats));
    handle = static_cast<int>(exchanges.size()) - 1;
  });
  return handle;
}

// Writes the channels, height and width of the features and the floats of the stash for images of this size, given
// a plan of so many numbers.
extern "C" int chain_shapes(const int32_t *plan, int64_t numbers, int64_t images, int64_t height, int64_t width,
                            int64_t *out) {
  return guarded("chain_shapes", [&] {
    const Chain chain = checked_chain(plan, numbers, images, height, width);
    const Shape features = features_shape(chain);
    const int64_t found[] = {features.sizes[1], features.sizes[2], features.sizes[3],
                             static_cast<int64_t>(chain.stash_floats())};
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
