// What Python sees: the operators, in the form that MindSpore's ops.Custom(func_type="aot") calls, and two functions
// for ctypes. An operator gets pointers to its inputs and outputs, their ranks, shapes and type names, and returns 0.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <vector>

#include "chain.h"
#include "exchange.h"
#include "optimizer.h"
#include "threads.h"

namespace {

// The scratch memory and the pool belong to one operator at a time, whatever threads the framework calls from.
std::mutex kernel_lock;

// Those that this process has joined; their numbers are the places here.
std::vector<std::unique_ptr<Exchange>> exchanges;

template <class F> int guarded(F &&f) {
  try {
    const std::lock_guard<std::mutex> lock(kernel_lock);
    f();
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "CPU kernels: %s\n", error.what());
    return 1;
  }
}

// Inputs of every chain operator: plan, constants, images, then five parameters a layer (see Chain::bind).
enum { PLAN, CONSTANTS, IMAGES, PARAMETERS };

Chain chain_of(void **inputs, int64_t **shapes) {
  const int64_t *s = shapes[IMAGES];
  Chain chain(static_cast<const int32_t *>(inputs[PLAN]), static_cast<int>(s[0]), static_cast<int>(s[2]),
              static_cast<int>(s[3]));
  chain.bind(inputs + PARAMETERS, static_cast<const float *>(inputs[CONSTANTS]));
  return chain;
}

float *floats(void *p) { return static_cast<float *>(p); }

size_t size_of(int rank, const int64_t *shape) {
  return std::accumulate(shape, shape + rank, size_t{1}, std::multiplies<size_t>());
}

}  // namespace

// Outputs: features, stash.
extern "C" int chain_forward(int count, void **parameters, int *, int64_t **shapes, const char **, void *, void *) {
  return guarded([&] {
    const Chain chain = chain_of(parameters, shapes);
    float *stash = floats(parameters[count - 1]);
    prefer_huge_pages(stash, chain.stash_floats() * sizeof(float));
    chain.forward(floats(parameters[IMAGES]), floats(parameters[count - 2]), stash);
  });
}

// Output: features.
extern "C" int chain_infer(int count, void **parameters, int *, int64_t **shapes, const char **, void *, void *) {
  return guarded([&] {
    chain_of(parameters, shapes).infer(floats(parameters[IMAGES]), floats(parameters[count - 1]));
  });
}

// Further inputs: stash, gradient of the features. Outputs: the gradients of all weights, gammas, betas, and, if there
// is one more, of the images.
extern "C" int chain_backward(int count, void **parameters, int *, int64_t **shapes, const char **, void *, void *) {
  return guarded([&] {
    const Chain chain = chain_of(parameters, shapes);
    const size_t layers = chain.layers.size();
    void **further = parameters + PARAMETERS + 5 * layers;
    auto **outputs = reinterpret_cast<float **>(further + 2);
    const bool images_too = parameters + count > further + 2 + 3 * layers;
    chain.backward(floats(parameters[IMAGES]), floats(further[0]), floats(further[1]), outputs, outputs + layers,
                   outputs + 2 * layers, images_too ? outputs[3 * layers] : nullptr);
  });
}

// Inputs: learning rate, momentum, norm to clip to, whether to look ahead (1 or 0), a weight decay each, then all
// parameters, all their moments (both updated in place), all gradients. Output: one number, for the framework to have
// something to wait for.
extern "C" int momentum_update(int count, void **parameters, int *ranks, int64_t **shapes, const char **, void *,
                               void *) {
  return guarded([&] {
    enum { RATE, MOMENTUM, CLIP_NORM, NESTEROV, DECAYS, FIRST };
    const int trained = (count - FIRST - 1) / 3;
    std::vector<Trained> all(trained);
    for (int i = 0; i < trained; ++i) {
      auto array = [&](int which) { return floats(parameters[FIRST + which * trained + i]); };
      all[i] = {array(0), array(1), array(2), size_of(ranks[FIRST + i], shapes[FIRST + i]),
                floats(parameters[DECAYS])[i]};
    }
    auto number = [&](int which) { return *floats(parameters[which]); };
    momentum_step(all, {number(RATE), number(MOMENTUM), number(CLIP_NORM), number(NESTEROV) != 0});
    *floats(parameters[count - 1]) = 1.0f;
  });
}

// Inputs: the share of a value that its mean takes, all means (updated in place), all values. Output: one number.
extern "C" int average_update(int count, void **parameters, int *ranks, int64_t **shapes, const char **, void *,
                              void *) {
  return guarded([&] {
    constexpr int FIRST = 1;
    const int averaged = (count - FIRST - 1) / 2;
    std::vector<Averaged> all(averaged);
    for (int i = 0; i < averaged; ++i)
      all[i] = {floats(parameters[FIRST + i]), floats(parameters[FIRST + averaged + i]),
                size_of(ranks[FIRST + i], shapes[FIRST + i])};
    follow(all, *floats(parameters[0]));
    *floats(parameters[count - 1]) = 1.0f;
  });
}

// Inputs: any arrays. Output: 1 if all their numbers are finite, else 0.
extern "C" int all_finite(int count, void **parameters, int *ranks, int64_t **shapes, const char **, void *, void *) {
  return guarded([&] {
    std::vector<Numbers> arrays(count - 1);
    for (int i = 0; i < count - 1; ++i) arrays[i] = {floats(parameters[i]), size_of(ranks[i], shapes[i])};
    *floats(parameters[count - 1]) = are_finite(arrays) ? 1.0f : 0.0f;
  });
}

// Inputs: the number of an exchange, then arrays. Outputs: their sums over the ranks.
extern "C" int sum_over_ranks(int count, void **parameters, int *ranks, int64_t **shapes, const char **, void *,
                              void *) {
  return guarded([&] {
    const int arrays = (count - 1) / 2;
    std::vector<Numbers> given(arrays);
    std::vector<float *> sums(arrays);
    for (int i = 0; i < arrays; ++i) {
      given[i] = {floats(parameters[1 + i]), size_of(ranks[1 + i], shapes[1 + i])};
      sums[i] = floats(parameters[1 + arrays + i]);
    }
    exchanges.at(*static_cast<int32_t *>(parameters[0]))->sum(given, sums);
  });
}

extern "C" int64_t exchange_bytes(int ranks, int64_t floats) {
  return static_cast<int64_t>(Exchange::bytes(ranks, static_cast<size_t>(floats)));
}

// The number of a new exchange over the memory `file`; -1 if that cannot be had.
extern "C" int exchange_join(int file, int rank, int ranks, int64_t floats) {
  const int failed = guarded([&] {
    exchanges.push_back(std::make_unique<Exchange>(file, rank, ranks, static_cast<size_t>(floats)));
  });
  return failed ? -1 : static_cast<int>(exchanges.size()) - 1;
}

// Writes the channels, height and width of the features and the floats of the stash for pictures of this size.
extern "C" void chain_shapes(const int32_t *plan, int pictures, int height, int width, int64_t *out) {
  const Chain chain(plan, pictures, height, width);
  out[0] = chain.last().out_channels;
  out[1] = chain.last().out_height;
  out[2] = chain.last().out_width;
  out[3] = static_cast<int64_t>(chain.stash_floats());
}

extern "C" void use_threads(int count) {
  const std::lock_guard<std::mutex> lock(kernel_lock);
  set_thread_count(count);
}
