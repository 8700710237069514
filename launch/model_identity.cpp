#include "launch/model_identity.h"

#include <algorithm>
#include <array>
#include <deque>
#include <span>
#include <type_traits>
#include <variant>

#include "runtime/gguf/byte_source.h"

namespace tandem {
namespace {

void add_array(Hasher& hasher, const GgufArray& array) {
  hasher.add_number(static_cast<uint64_t>(array.element_type));
  hasher.add_number(array.size());
  std::visit(
      [&](const auto& values) {
        using Element = typename std::decay_t<decltype(values)>::value_type;
        if constexpr (std::is_same_v<Element, std::string>) {
          for (const std::string& text : values) hasher.add_field(text);
        } else {
          hasher.add({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Element)});
        }
      },
      array.values);
}

void add_value(Hasher& hasher, const GgufValue& value) {
  hasher.add_number(static_cast<uint64_t>(value.type));
  std::visit(
      [&](const auto& held) {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, std::string>) {
          hasher.add_field(held);
        } else if constexpr (std::is_same_v<Held, GgufArray>) {
          add_array(hasher, held);
        } else {
          hasher.add({reinterpret_cast<const char*>(&held), sizeof(held)});
        }
      },
      value.value);
}

void add_directory(Hasher& hasher, const GgufFile& file) {
  hasher.add_number(file.total_bytes());
  for (const auto& [key, value] : file.metadata()) {
    hasher.add_field(key);
    add_value(hasher, value);
  }
  for (const GgufTensor& tensor : file.tensors()) {
    hasher.add_field(tensor.name);
    hasher.add_number(static_cast<uint64_t>(tensor.type));
    for (const int64_t n : tensor.shape) hasher.add_number(static_cast<uint64_t>(n));
    hasher.add_number(static_cast<uint64_t>(tensor.file_index));
    hasher.add_number(tensor.file_offset);
    hasher.add_number(tensor.n_bytes);
  }
}

/// Some bytes of the tensor, at even distances from its first to its last.
void add_samples(Hasher& hasher, const ByteSource& source, const GgufTensor& tensor) {
  constexpr uint64_t kSamples = 4;
  std::array<std::byte, 64> sample;
  const uint64_t n = std::min<uint64_t>(sample.size(), tensor.n_bytes);
  for (uint64_t i = 0; i < kSamples; ++i) {
    const auto bytes = std::span(sample).first(n);
    source.read(tensor.file_offset + (tensor.n_bytes - n) / (kSamples - 1) * i, bytes);
    hasher.add({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
}

}  // namespace

Hash128 directory_identity(const GgufFile& file) {
  Hasher hasher;
  add_directory(hasher, file);
  return hasher.result();
}

Hash128 model_identity(const GgufFile& file) {
  Hasher hasher;
  add_directory(hasher, file);
  std::deque<FileSource> sources;
  for (const std::string& path : file.paths()) sources.emplace_back(path);
  for (const GgufTensor& tensor : file.tensors())
    add_samples(hasher, sources[static_cast<size_t>(tensor.file_index)], tensor);
  return hasher.result();
}

}  // namespace tandem
