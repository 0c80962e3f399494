// Runs forward, backward and inference over chains of awkward sizes, for the sanitizers. The numbers themselves are
// compared with the framework's in Python; here they must only be finite and the same with one thread and with three. Sums over
// processes, updates and the search for what is not finite are held against what they must give.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "chain.h"
#include "exchange.h"
#include "optimizer.h"
#include "threads.h"

namespace {

struct Shape {
  int pictures, height, width;
};

// Everything a run writes, one after the other.
std::vector<float> run(const std::vector<int32_t> &plan, const Shape &shape, int threads) {
  set_thread_count(threads);
  Chain chain(plan.data(), shape.pictures, shape.height, shape.width);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const size_t layers = chain.layers.size();
  std::vector<std::vector<float>> parameters, gradients;
  for (int which = 0; which < 5; ++which) {
    for (const Layer &l : chain.layers) {
      std::vector<float> values(static_cast<size_t>(which == 0 ? l.taps() : 1) * l.out_channels);
      for (float &v : values) v = which == 0 ? normal(random) : which == 1 || which == 4 ? 1.0f : 0.1f;
      if (which < 3) gradients.emplace_back(values.size());
      parameters.push_back(std::move(values));
    }
  }
  std::vector<void *> pointers;
  std::vector<float *> outputs;
  for (auto &p : parameters) pointers.push_back(p.data());
  for (auto &g : gradients) outputs.push_back(g.data());
  std::vector<float> constants;
  for (size_t i = 0; i < layers; ++i) constants.insert(constants.end(), {1e-5f, 0.1f});
  chain.bind(pointers.data(), constants.data());

  const Layer &last = chain.last();
  std::vector<float> input(chain.first().in_channels * chain.first().in_pixels());
  std::vector<float> features(last.out_channels * last.out_pixels()), inferred(features.size());
  std::vector<float> features_gradient(features.size()), input_gradient(input.size()), stash(chain.stash_floats());
  for (float &v : input) v = normal(random);
  for (float &v : features_gradient) v = normal(random);
  chain.forward(input.data(), features.data(), stash.data());
  chain.backward(input.data(), stash.data(), features_gradient.data(), outputs.data(), outputs.data() + layers,
                 outputs.data() + 2 * layers, input_gradient.data());
  chain.infer(input.data(), inferred.data());

  std::vector<float> all;
  for (const auto *part : {&features, &inferred, &input_gradient}) all.insert(all.end(), part->begin(), part->end());
  for (const auto &part : gradients) all.insert(all.end(), part.begin(), part.end());
  for (const auto &part : parameters) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// Three processes sum three times, then the first one alone, which must not wait for ever. Called before there are
// threads, which a fork would lose.
bool exchange_works() {
  constexpr int RANKS = 3;
  constexpr size_t FLOATS = 40001;
  const int file = memfd_create("sums", 0);
  if (ftruncate(file, static_cast<off_t>(Exchange::bytes(RANKS, FLOATS))) != 0) return false;
  int rank = 0;
  std::vector<pid_t> others;
  for (int r = 1; r < RANKS && rank == 0; ++r) {
    const pid_t process = fork();
    if (process == 0) rank = r;
    else others.push_back(process);
  }
  set_thread_count(1);
  Exchange exchange(file, rank, RANKS, FLOATS);
  bool right = true;
  std::vector<float> sums(FLOATS - 1), sum(1);
  const auto sum_up = [&](int round) {
    const std::vector<float> array(sums.size(), static_cast<float>(rank + round)), number(1, 10.0f * rank);
    exchange.sum({{array.data(), array.size()}, {number.data(), 1}}, {sums.data(), sum.data()});
  };
  for (int round = 1; round <= 3; ++round) {
    sum_up(round);
    right = right && sums.front() == 3.0f * round + 3 && sums.back() == sums.front() && sum[0] == 30;
  }
  if (rank > 0) _exit(right ? 0 : 1);
  for (const pid_t process : others) {
    int status = 1;
    right = waitpid(process, &status, 0) == process && status == 0 && right;
  }
  try {
    sum_up(4);
    return false;
  } catch (const std::runtime_error &) {
    return right;
  }
}

}  // namespace

int main() {
  if (!exchange_works()) {
    std::printf("wrong sums over processes\n");
    return 1;
  }
  // Batch statistics, layers, then kind, stride, activation, shortcut, input and output channels of each.
  const std::vector<std::vector<int32_t>> plans = {
      {1, 1, 0, 1, 1, -1, 1, 1},
      {1, 1, 0, 1, 0, -1, 19, 70},
      {1, 1, 1, 1, 1, -1, 17, 17},
      {1, 1, 1, 2, 1, -1, 33, 33},
      {1, 1, 2, 2, 1, -1, 3, 24},
      {0, 3, 0, 1, 1, -1, 8, 48, 1, 1, 1, -1, 48, 48, 0, 1, 0, 0, 48, 8},
      {1, 3, 0, 1, 1, -1, 8, 48, 1, 2, 1, -1, 48, 48, 0, 1, 0, -1, 48, 24},
      {1, 4, 2, 2, 1, -1, 3, 8, 1, 1, 1, -1, 8, 8, 0, 1, 0, 1, 8, 8, 0, 1, 1, -1, 8, 40},
  };
  for (const auto &plan : plans) {
    for (const Shape &shape : {Shape{1, 1, 1}, Shape{2, 7, 5}, Shape{3, 6, 20}, Shape{9, 12, 11}}) {
      const std::vector<float> one = run(plan, shape, 1), three = run(plan, shape, 3);
      if (std::memcmp(one.data(), three.data(), one.size() * sizeof(float)) != 0) {
        std::printf("threads change the result\n");
        return 1;
      }
      // The unbiased variance of a single pixel is not a number.
      for (const float v : one) {
        if (!std::isfinite(v) && shape.pictures * shape.height * shape.width > 1 && shape.height > 1) {
          std::printf("not finite\n");
          return 1;
        }
      }
    }
  }
  std::vector<float> value(70001, 1.0f), moment(value.size(), 2.0f), gradient(value.size(), 3.0f);
  momentum_step({{value.data(), moment.data(), gradient.data(), value.size(), 0.5f}}, {0.25f, 0.5f, 0.0f, false});
  for (size_t i = 0; i < value.size(); ++i) {
    if (moment[i] != 4.5f || value[i] != -0.125f) {
      std::printf("wrong update\n");
      return 1;
    }
  }
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    const std::vector<Numbers> arrays = {{value.data(), value.size()}, {gradient.data(), gradient.size()}};
    gradient.back() = std::numeric_limits<float>::max();
    if (!are_finite(arrays)) return 1;
    gradient.back() = bad;
    if (are_finite(arrays)) return 1;
  }
  std::printf("ok\n");
}
