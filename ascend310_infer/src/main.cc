// Classifies a folder of images: one file of float32 logits for each.
//
//   infer310 --model M.mindir --data FOLDER --output RESULTS [--device Ascend|GPU|CPU] [--device_id 0]
//            [--preprocess CPU|DVPP|RAW] [--aipp src/aipp.cfg] [--inputs FOLDER]
//
// --inputs also keeps what entered the network, as files for --preprocess RAW: a.jpg.bin, and further views of an image
// as a.jpg.1.bin and so on. The JSON beside the model says how images are prepared, and how many views count; the
// logits are the mean over the views. The result of FOLDER/a/b.jpg is RESULTS/a/b.jpg.bin. Any fault ends the program
// with status 1 and a line that names the file.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "files.h"
#include "model_runner.h"
#include "preprocess.h"

namespace fs = std::filesystem;

namespace {
using Options = std::map<std::string, std::string>;

Options parse_options(int count, char **words) {
  Options options = {{"model", ""},      {"data", ""},          {"output", ""}, {"device", "Ascend"},
                     {"device_id", "0"}, {"preprocess", "CPU"}, {"aipp", ""},   {"inputs", ""}};
  for (int i = 1; i < count; i += 2) {
    const std::string word = words[i];
    const auto option = word.rfind("--", 0) == 0 ? options.find(word.substr(2)) : options.end();
    if (option == options.end()) throw std::runtime_error(word + ": no such option");
    if (i + 1 == count) throw std::runtime_error(word + ": needs a value");
    option->second = words[i + 1];
  }
  for (const char *name : {"model", "data", "output"}) {
    if (options[name].empty()) throw std::runtime_error(std::string("--") + name + " is missing");
  }
  if (options["device"] != "Ascend" && options["device"] != "GPU" && options["device"] != "CPU") {
    throw std::runtime_error("--device must be Ascend, GPU or CPU, not " + options["device"]);
  }
  const std::string &id = options["device_id"];
  if (id.empty() || id.size() > 3 || id.find_first_not_of("0123456789") != std::string::npos) {
    throw std::runtime_error("--device_id must be a whole number, not " + id);
  }
  return options;
}

double milliseconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

// Of ascending values, by the nearest rank.
double percentile(const std::vector<double> &sorted, double fraction) {
  const auto rank = static_cast<size_t>(std::ceil(fraction * static_cast<double>(sorted.size())));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

void report(size_t images, int64_t batch_size, double first, double preprocessing, std::vector<double> latencies) {
  std::sort(latencies.begin(), latencies.end());
  const double total = std::accumulate(latencies.begin(), latencies.end(), 0.0);
  std::printf("%zu pictures in %zu batches of %lld; warm-up %.3f ms, preprocessing %.3f ms a picture\n", images,
              latencies.size(), static_cast<long long>(batch_size), first, preprocessing / images);
  std::printf("latency of a batch: mean %.3f ms, p50 %.3f ms, p99 %.3f ms; %.2f pictures/s\n", total / latencies.size(),
              percentile(latencies, 0.5), percentile(latencies, 0.99), 1000 * images / total);
}

void run(Options options) {
  const fs::path data = options["data"], output = options["output"];
  if (!fs::is_regular_file(options["model"])) throw std::runtime_error(options["model"] + ": no such model");
  if (fs::exists(output) && !fs::is_empty(output)) {
    throw std::runtime_error(output.string() + ": is not empty; results of two runs must not mix");
  }
  const auto device_id = static_cast<uint32_t>(std::stoul(options["device_id"]));
  ModelRunner model(options["model"], {options["device"], device_id, options["aipp"]});
  const auto preprocess = make_preprocess(options["preprocess"], model, read_normalisation(options["model"]),
                                          read_framing(options["model"]), device_id);
  const auto [files, left_out] = preprocess->list(data);
  if (!left_out.empty()) {
    std::printf("left out: %zu no image (%s)\n", left_out.size(), list_some(left_out, ", ").c_str());
  }

  const auto batch_size = static_cast<size_t>(model.batch_size()), slot_size = model.slot_size();
  const auto views = static_cast<size_t>(preprocess->views());
  std::vector<unsigned char> images(batch_size * views * slot_size);
  std::vector<double> latencies;
  double first = 0, preprocessing = 0;
  for (size_t begin = 0; begin < files.size(); begin += batch_size) {
    const size_t end = std::min(begin + batch_size, files.size());
    const auto preprocessing_begin = std::chrono::steady_clock::now();
    // What fills up the last batch is left over from the one before; its logits go nowhere.
    for (size_t i = begin; i < end; ++i) preprocess->fill(data / files[i], &images[(i - begin) * views * slot_size]);
    preprocessing += milliseconds_since(preprocessing_begin);
    std::vector<float> logits;  // the sum over the views
    for (size_t view = 0; view < views; ++view) {
      for (size_t i = 0; i < batch_size; ++i) {
        std::memcpy(model.slot(static_cast<int64_t>(i)), &images[(i * views + view) * slot_size], slot_size);
      }
      if (begin == 0 && view == 0) {
        const auto warm_up_begin = std::chrono::steady_clock::now();
        model.predict();
        first = milliseconds_since(warm_up_begin);
      }
      const auto predict_begin = std::chrono::steady_clock::now();
      const auto found = model.predict();
      latencies.push_back(milliseconds_since(predict_begin));
      logits.resize(found.size());
      std::transform(found.begin(), found.end(), logits.begin(), logits.begin(), std::plus<>());
    }
    for (float &logit : logits) logit /= static_cast<float>(views);
    const size_t classes = logits.size() / batch_size;
    for (size_t i = begin; i < end; ++i) {
      write_file(output / (files[i] + ".bin"), logits.data() + (i - begin) * classes, classes * sizeof(float));
      if (options["inputs"].empty()) continue;
      for (size_t view = 0; view < views; ++view) {
        const std::string number = view == 0 ? "" : "." + std::to_string(view);
        write_file(fs::path(options["inputs"]) / (files[i] + number + ".bin"),
                   &images[((i - begin) * views + view) * slot_size], slot_size);
      }
    }
  }
  report(files.size(), model.batch_size(), first, preprocessing, latencies);
}
}  // namespace

int main(int count, char **words) {
  try {
    run(parse_options(count, words));
  } catch (const std::exception &error) {
    std::cerr << "error: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
