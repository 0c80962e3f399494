// The operators as MindSpore calls them, with arguments that are not what they should be, and without memory. Each
// array is in memory of exactly its size: the address sanitizer sees what goes beyond.
#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "checks.h"

using Operator = int(int, void **, int *, int64_t **, const char **, void *, void *);
extern "C" Operator backbone_forward, backbone_infer, network_infer, backbone_backward, momentum_update, adamw_update,
    ema_update, all_finite, shm_all_reduce;
extern "C" int backbone_shapes(const int32_t *plan, int64_t numbers, int64_t images, int64_t height, int64_t width,
                               int64_t *out);
extern "C" int use_threads(int count);

namespace {
const auto FIRST_THREAD = std::this_thread::get_id();
std::atomic<bool> memory_for_pool_threads{true};
}  // namespace

// Stands before the system's own. All scratch memory comes from here.
extern "C" void *aligned_alloc(size_t alignment, size_t bytes) {
  if (!memory_for_pool_threads && std::this_thread::get_id() != FIRST_THREAD) return nullptr;
  void *memory = nullptr;
  return posix_memalign(&memory, alignment, bytes) == 0 ? memory : nullptr;
}

namespace {

using Sizes = std::vector<int64_t>;

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

struct Argument {
  Sizes sizes;
  const char *type;
  std::vector<uint32_t> bits;  // of its numbers
  bool has_memory = true;
};

struct Call {
  const char *name;
  Operator *function;
  std::vector<Argument> arguments;

  void add(const Sizes &sizes, float value = 0.5f) {
    const int64_t count = std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<int64_t>());
    arguments.push_back({sizes, "float32", std::vector<uint32_t>(static_cast<size_t>(count), bits_of(value))});
  }
  void add(const std::vector<int32_t> &row) {
    arguments.push_back({{static_cast<int64_t>(row.size())}, "int32", {row.begin(), row.end()}});
  }
  bool succeeds() {
    std::vector<void *> data;
    std::vector<int> ranks;
    std::vector<std::unique_ptr<int64_t[]>> sizes;
    std::vector<int64_t *> shapes;
    std::vector<const char *> types;
    for (Argument &a : arguments) {
      data.push_back(a.has_memory ? a.bits.data() : nullptr);
      ranks.push_back(static_cast<int>(a.sizes.size()));
      sizes.push_back(a.sizes.empty() ? nullptr : std::make_unique<int64_t[]>(a.sizes.size()));
      std::copy(a.sizes.begin(), a.sizes.end(), sizes.back().get());
      shapes.push_back(sizes.back().get());
      types.push_back(a.type);
    }
    return function(static_cast<int>(arguments.size()), data.data(), ranks.data(), shapes.data(), types.data(), nullptr,
                    nullptr) == 0;
  }
  std::vector<std::vector<uint32_t>> values() const {
    std::vector<std::vector<uint32_t>> all;
    all.reserve(arguments.size());
    for (const Argument &a : arguments) all.push_back(a.bits);
    return all;
  }
  // Refused, and nothing written.
  void check_refused(const char *what, size_t i) {
    const auto before = values();
    if (!succeeds() && values() == before) return;
    std::fprintf(stderr, "%s: %s argument %zu is not refused\n", name, what, i);
    std::_Exit(1);
  }
};

// A stem, an inverted residual with a shortcut; all strides 1, so that no other size of the images fits the features.
const std::vector<int32_t> PLAN = {1, 0, 4, 2, 1,  1,  -1, 3, 8, 0, 0, 1, 1,  -1, 8, 18,
                                   0, 1, 1, 1, -1, 18, 18, 0, 0, 1, 0, 1, 18, 8,  0};
constexpr size_t FIELDS = 7;  // of a layer
constexpr int LAYERS = 4, BATCH_SIZE = 2, SIDE = 5, CLASSES = 7;
const Sizes WEIGHTS[LAYERS] = {{8, 3, 3, 3}, {18, 8, 1, 1}, {18, 1, 3, 3}, {8, 18, 1, 1}};
const Sizes IMAGES = {BATCH_SIZE, 3, SIDE, SIDE}, FEATURES = {BATCH_SIZE, 8, SIDE, SIDE};

int64_t saved_floats() {
  int64_t out[4];
  CHECK(backbone_shapes(PLAN.data(), static_cast<int64_t>(PLAN.size()), BATCH_SIZE, SIDE, SIDE, out) == 0);
  CHECK(out[0] == FEATURES[1] && out[1] == SIDE && out[2] == SIDE && out[3] > 0);
  return out[3];
}

Call backbone_call(const char *name, Operator *function, const std::vector<int32_t> &plan = PLAN) {
  Call call = {name, function, {}};
  call.add(plan);
  call.add({LAYERS, 2}, 0.1f);
  call.add(IMAGES);
  for (int which = 0; which < 5; ++which)
    for (const Sizes &weight : WEIGHTS) call.add(which == 0 ? weight : Sizes{weight[0]});
  return call;
}

std::vector<Call> calls() {
  std::vector<Call> all;
  all.push_back(backbone_call("backbone_forward", backbone_forward));
  all.back().add(FEATURES);
  all.back().add(Sizes{saved_floats()});

  all.push_back(backbone_call("backbone_infer", backbone_infer));
  all.back().add(FEATURES);

  std::vector<int32_t> pooled = PLAN;
  pooled[1] = 1;
  all.push_back(backbone_call("network_infer", network_infer, pooled));
  all.back().add(Sizes{CLASSES, FEATURES[1]});
  all.back().add(Sizes{CLASSES});
  all.back().add(Sizes{BATCH_SIZE, CLASSES});

  for (const bool images_too : {false, true}) {
    all.push_back(backbone_call("backbone_backward", backbone_backward));
    all.back().add(Sizes{saved_floats()});
    all.back().add(FEATURES);
    for (int which = 0; which < 3; ++which)
      for (const Sizes &weight : WEIGHTS) all.back().add(which == 0 ? weight : Sizes{weight[0]});
    if (images_too) all.back().add(IMAGES);
  }

  const auto add_update = [&all](const char *name, Operator *function, int numbers, int arrays) {
    all.push_back({name, function, {}});
    for (int i = 0; i < numbers; ++i) all.back().add(i % 2 == 0 ? Sizes{} : Sizes{1});
    for (int which = 0; which < 2; ++which) all.back().add(Sizes{2});  // weight decays, factors of the learning rate
    for (int which = 0; which < arrays; ++which)
      for (const Sizes &sizes : {Sizes{3, 4}, Sizes{5}}) all.back().add(sizes);
    all.back().add(Sizes{1});
  };
  add_update("momentum_update", momentum_update, 4, 3);
  add_update("adamw_update", adamw_update, 6, 4);

  all.push_back({"ema_update", ema_update, {}});
  all.back().add(Sizes{});
  for (int which = 0; which < 2; ++which)
    for (const Sizes &sizes : {Sizes{3, 4}, Sizes{5}}) all.back().add(sizes);
  all.back().add(Sizes{1});
  return all;
}

void wrong_arguments_are_refused(Call call) {
  CHECK(call.succeeds());
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    const Argument right = call.arguments[i];
    const auto refused = [&](const char *what) {
      call.check_refused(what, i);
      call.arguments[i] = right;
    };
    call.arguments[i].type = std::strcmp(right.type, "int32") == 0 ? "float32" : "int32";
    refused("the type of");
    call.arguments[i].type = "float16";
    refused("the half type of");
    call.arguments[i].has_memory = false;
    refused("the memory of");
    call.arguments[i].sizes = Sizes(100, 1);
    refused("the many dimensions of");
    if (right.sizes.size() != 1 || right.sizes[0] != 1) {  // a single number may have no dimension
      call.arguments[i].sizes.push_back(2);
      refused("one dimension more of");
      if (!right.sizes.empty()) {
        call.arguments[i].sizes.pop_back();
        refused("one dimension less of");
      }
    }
    for (size_t d = 0; d < right.sizes.size(); ++d) {
      if (call.function == network_infer && right.sizes == IMAGES && d >= 2) continue;  // it pools images of any size
      for (const int64_t size : {right.sizes[d] + 1, right.sizes[d] - 1, -right.sizes[d], INT64_MAX, INT64_MIN}) {
        call.arguments[i].sizes[d] = size;
        refused("a size of");
      }
    }
  }
  CHECK(call.succeeds());
  const std::vector<Argument> all = call.arguments;
  const bool has_optional = call.function == backbone_backward && all.back().sizes == IMAGES;
  for (size_t count = 0; count < all.size() - (has_optional ? 1 : 0); ++count) {
    call.arguments.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count));
    call.check_refused("arguments end before", count);
  }
  call.arguments = all;
  call.add(Sizes{1});
  call.check_refused("there is one more than", all.size());
}

// A plan that holds any number anywhere is refused, or runs within the memory of its arguments.
void plans_of_any_numbers() {
  for (Call call : calls()) {
    if (std::strncmp(call.name, "backbone", 8) != 0) continue;
    for (size_t i = 0; i < PLAN.size(); ++i) {
      for (const int32_t number : {INT_MIN, -2, -1, 0, 1, 2, 3, 4, 17, 1 << 20, INT_MAX}) {
        std::vector<int32_t> plan = PLAN;
        plan[i] = number;
        call.arguments[0].bits.assign(plan.begin(), plan.end());
        const size_t field = i > 2 ? (i - 3) % FIELDS : FIELDS;
        const bool is_flag = i == 0 || field == 2 || field == 6;  // statistics, activations, paddings
        const bool without_shortcut = field == 3 && number == -1;
        if (plan != PLAN && !(is_flag && (number == 0 || number == 1)) && !without_shortcut)
          call.check_refused("the plan in", i);
        else
          call.succeeds();
      }
    }
  }
}

void sizes_that_no_backbone_has() {
  int64_t out[4];
  const auto shapes = [&](int64_t numbers, int64_t images, int64_t height, int64_t width) {
    return backbone_shapes(PLAN.data(), numbers, images, height, width, out);
  };
  const auto numbers = static_cast<int64_t>(PLAN.size());
  CHECK(shapes(numbers, 2, 5, 5) == 0);
  for (const int64_t wrong : {int64_t{INT64_MIN}, int64_t{-1}, int64_t{0}, int64_t{1} << 31, INT64_MAX}) {
    CHECK(shapes(wrong, 2, 5, 5) != 0 && shapes(numbers, wrong, 5, 5) != 0);
    CHECK(shapes(numbers, 2, wrong, 5) != 0 && shapes(numbers, 2, 5, wrong) != 0);
  }
  for (const int64_t wrong : {numbers - 1, numbers - 6, int64_t{3}, int64_t{2}, int64_t{1}})
    CHECK(shapes(wrong, 2, 5, 5) != 0);
  CHECK(shapes(numbers, 50000, 50000, 1) != 0);
}

void other_arguments() {
  Call finite = {"all_finite", all_finite, {}};
  finite.add(Sizes{3, 4});
  finite.add(Sizes{});
  CHECK(finite.succeeds() && finite.arguments[1].bits[0] == bits_of(1));
  finite.arguments[0].type = "int32";
  finite.check_refused("the type of", 0);
  finite.arguments.clear();
  finite.check_refused("no argument at all, not even", 0);

  Call sum = {"shm_all_reduce", shm_all_reduce, {}};
  sum.add(std::vector<int32_t>{0});
  sum.add(Sizes{3});
  sum.add(Sizes{3});
  sum.check_refused("an all-reduce that nobody has joined in", 0);

  Call unpooled = backbone_call("network_infer", network_infer);
  unpooled.add(Sizes{CLASSES, FEATURES[1]});
  unpooled.add(Sizes{CLASSES});
  unpooled.add(Sizes{BATCH_SIZE, CLASSES});
  unpooled.check_refused("a plan without pooling, the", 0);

  for (const int count : {INT_MIN, -1, 0, 1025, INT_MAX}) CHECK(use_threads(count) != 0);
}

// A pool thread that gets no memory: the operator fails, and works again when there is some.
void no_memory_is_an_error_code(Call call) {
  CHECK(call.succeeds());
  const auto expected = call.values();
  memory_for_pool_threads = false;
  CHECK(use_threads(64) == 0);  // new ones, which have no scratch memory yet
  bool failed = false;
  while (!failed) failed = !call.succeeds();  // until one of them gets a task
  memory_for_pool_threads = true;
  CHECK(call.succeeds());
  CHECK(call.values() == expected);
}

}  // namespace

int main() {
  limit_time();
  CHECK(use_threads(2) == 0);
  for (const Call &call : calls()) wrong_arguments_are_refused(call);
  plans_of_any_numbers();
  sizes_that_no_backbone_has();
  other_arguments();
  no_memory_is_an_error_code(calls()[1]);
}
