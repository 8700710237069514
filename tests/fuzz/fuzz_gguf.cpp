// libFuzzer target: any bytes either give a GgufFile whose every promise holds, or Error(bad_data) in one
// line; and so does the model that it describes, dealt to ranks.
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <span>
#include <string>

#include "ops/core/error.h"
#include "runtime/gguf/describe.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/config.h"
#include "runtime/model/shard.h"

namespace {

using tandem::Error;
using tandem::ExitCode;
using tandem::GgufFile;
using tandem::GgufTensor;

void expect(bool condition, const char* what) {
  if (condition) return;
  fmt::print(stderr, "broken promise: {}\n", what);
  std::abort();
}

void check_message(const Error& error) {
  const std::string what = error.what();
  expect(error.code() == ExitCode::bad_data, "an input error is bad_data");
  expect(what.starts_with("m.gguf: "), "a message names the file");
  expect(what.size() < 1000, "a message is short");
  for (const char c : what)
    expect(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "a message is one line");
}

template <class Action>
void try_look_up(Action action) {
  try {
    action();
  } catch (const Error& error) {
    check_message(error);
  }
}

void check_tensors(const GgufFile& file, uint64_t n_bytes) {
  constexpr size_t kMaxPairs = 100;
  for (const GgufTensor& tensor : file.tensors()) {
    expect(file.find_tensor(tensor.name) == &tensor, "names are unique");
    expect(tensor.shape.size() <= 4, "four dimensions at most");
    for (const int64_t dimension : tensor.shape) expect(dimension > 0, "dimensions are positive");
    const auto row = static_cast<uint64_t>(tandem::row_bytes(tensor.type, tensor.n_cols()));
    expect(tensor.n_bytes == row * static_cast<uint64_t>(tensor.n_rows()), "bytes follow from the shape");
    expect(tensor.file_offset <= n_bytes && tensor.n_bytes <= n_bytes - tensor.file_offset,
           "bytes are there");
    if (file.tensors().size() > kMaxPairs) continue;
    for (const GgufTensor& other : file.tensors()) {
      const bool apart = other.file_offset + other.n_bytes <= tensor.file_offset ||
                         tensor.file_offset + tensor.n_bytes <= other.file_offset;
      expect(&tensor == &other || apart, "tensors don't overlap");
    }
  }
}

void check_look_ups(const GgufFile& file) {
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  for (const auto& [key, value] : file.metadata()) {
    expect(file.has(key), "a key is found");
    try_look_up([&, &name = key] { (void)file.get_int(name, kMin, kMax); });
    try_look_up([&, &name = key] { (void)file.get_float(name); });
    try_look_up([&, &name = key] { (void)file.get_bool_or(name, false); });
    try_look_up([&, &name = key] { (void)file.get_string(name); });
    try_look_up([&, &name = key] { (void)file.find_strings(name); });
    try_look_up([&, &name = key] { (void)file.find_floats(name); });
    try_look_up([&, &name = key] { (void)file.find_ints(name); });
    try_look_up([&, &name = key] { (void)file.find_integers(name, 0, 255); });
    (void)type_name(value);
  }
}

void check_text(const std::string& text) {
  for (const char c : text) {
    expect(static_cast<unsigned char>(c) >= 0x20 || c == '\n', "a table has nothing that a terminal obeys");
  }
}

void check_model(const GgufFile& file) {
  const tandem::ModelConfig config = tandem::ModelConfig::from_gguf(file);
  expect(config.n_kv_heads > 0 && config.n_heads % config.n_kv_heads == 0, "heads share KV heads evenly");
  expect(config.head_dim >= 2 && config.rope.n_rot >= 2 && config.rope.n_rot <= config.head_dim,
         "heads turn");
  (void)rope_frequencies(config.rope, {});
  for (int n_ranks = 1; n_ranks <= 3; ++n_ranks) {
    const tandem::ShardPlan plan(file, config, tandem::SplitWeights(n_ranks));
    expect(plan.rank(n_ranks - 1).q_heads.end == config.n_heads, "all heads are dealt");
    for (const GgufTensor& tensor : file.tensors()) {
      for (int r = 0; r < n_ranks; ++r) {
        const int64_t n_bytes = plan.bytes(tensor, r);
        expect(n_bytes >= 0 && static_cast<uint64_t>(n_bytes) <= tensor.n_bytes, "a share is of the tensor");
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const GgufFile file = GgufFile::parse(std::as_bytes(std::span(data, size)), "m.gguf");
    check_tensors(file, size);
    check_look_ups(file);
    check_text(describe_metadata(file));
    check_text(describe_tensors(file));
    check_model(file);
  } catch (const Error& error) {
    check_message(error);
  }
  return 0;
}
