// Writes GGUF files for tests: tiny models, and, by raw records and patches, hostile files. It shares no code
// with the reader, so that the two check each other. Never used outside tests/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "ops/quant/tensor_type.h"

namespace tandem::test {

using Bytes = std::vector<std::byte>;

void append_bytes(Bytes& bytes, std::span<const std::byte> more);

/// Appends the bytes of a number, little endian.
template <class T>
void append_number(Bytes& bytes, T number) {
  static_assert(std::is_arithmetic_v<T>);
  append_bytes(bytes, std::as_bytes(std::span(&number, 1)));
}

/// Appends a GGUF string: its length (u64), then its bytes.
void append_string(Bytes& bytes, std::string_view text);

/// The file format's id of a C++ type's value type.
template <class T>
constexpr uint32_t gguf_type_id() {
  if constexpr (std::is_same_v<T, uint8_t>) return 0;
  if constexpr (std::is_same_v<T, int8_t>) return 1;
  if constexpr (std::is_same_v<T, uint16_t>) return 2;
  if constexpr (std::is_same_v<T, int16_t>) return 3;
  if constexpr (std::is_same_v<T, uint32_t>) return 4;
  if constexpr (std::is_same_v<T, int32_t>) return 5;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, bool>) return 7;
  if constexpr (std::is_convertible_v<T, std::string_view>) return 8;
  if constexpr (std::is_same_v<T, uint64_t>) return 10;
  if constexpr (std::is_same_v<T, int64_t>) return 11;
  if constexpr (std::is_same_v<T, double>) return 12;
}

inline constexpr uint32_t kGgufArrayTypeId = 9;

class GgufWriter {
 public:
  explicit GgufWriter(uint32_t version = 3) : version_(version) {}

  /// Pads tensor data to `alignment` (a power of two) and says so in general.alignment. Default: 32, unsaid.
  GgufWriter& set_alignment(uint32_t alignment);

  /// One value; its C++ type decides the file's: add<uint32_t>("llama.block_count", 2).
  template <class T>
  GgufWriter& add(std::string_view key, const T& value) {
    return add_raw(key, gguf_type_id<T>(), value_bytes(value));
  }
  GgufWriter& add(std::string_view key, const char* text) { return add(key, std::string_view(text)); }

  /// An array; its element type decides the file's: add_array<std::string>("tokenizer.ggml.tokens", tokens).
  template <class T>
  GgufWriter& add_array(std::string_view key, const std::vector<T>& elements) {
    Bytes bytes;
    append_number(bytes, gguf_type_id<T>());
    append_number(bytes, uint64_t{elements.size()});
    for (const T& element : elements) append_bytes(bytes, value_bytes(element));
    return add_raw(key, kGgufArrayTypeId, bytes);
  }

  /// A key whose type id and bytes are the caller's (hostile ones).
  GgufWriter& add_raw(std::string_view key, uint32_t type_id, std::span<const std::byte> value);

  /// A tensor behind the others. `shape` is fastest-varying first; `data` has the bytes that type and shape
  /// ask for (std::invalid_argument otherwise).
  GgufWriter& add_tensor(std::string_view name, TensorType type, const std::vector<int64_t>& shape,
                         std::span<const std::byte> data);
  GgufWriter& add_f32(std::string_view name, const std::vector<int64_t>& shape, std::span<const float> data) {
    return add_tensor(name, TensorType::f32, shape, std::as_bytes(data));
  }

  /// An entry of the tensor directory as it is, without data (hostile ones). `offset` is within the data.
  GgufWriter& add_raw_tensor(std::string_view name, const std::vector<int64_t>& shape, uint32_t type_id,
                             uint64_t offset);

  /// Counts that the header is to claim instead of the true ones.
  GgufWriter& claim_keys(uint64_t n_keys);
  GgufWriter& claim_tensors(uint64_t n_tensors);

  /// The file.
  Bytes bytes() const;
  void write(const std::string& path) const;

 private:
  template <class T>
  static Bytes value_bytes(const T& value) {
    Bytes bytes;
    if constexpr (std::is_convertible_v<T, std::string_view>) {
      append_string(bytes, value);
    } else if constexpr (std::is_same_v<T, bool>) {
      append_number(bytes, static_cast<uint8_t>(value ? 1 : 0));
    } else {
      append_number(bytes, value);
    }
    return bytes;
  }
  void pad(Bytes& bytes) const;

  uint32_t version_;
  uint32_t alignment_ = 32;
  uint64_t n_keys_ = 0;
  uint64_t n_tensors_ = 0;
  std::optional<uint64_t> claimed_keys_;
  std::optional<uint64_t> claimed_tensors_;
  Bytes keys_;
  Bytes directory_;
  Bytes data_;
};

/// Writes a file, replacing what was there. Throws std::runtime_error.
void write_bytes(const std::string& path, std::span<const std::byte> bytes);

/// The offset just behind the first GGUF string `text` (length and bytes) in a file: a key's value type, or a
/// tensor's number of dimensions. Throws std::out_of_range where there is none.
size_t offset_behind(const Bytes& bytes, std::string_view text);

/// Overwrites the bytes at `offset` with a number.
template <class T>
void patch(Bytes& bytes, size_t offset, T number) {
  static_assert(std::is_arithmetic_v<T>);
  if (offset + sizeof(T) > bytes.size()) throw std::out_of_range("patch behind the end of the file");
  std::memcpy(bytes.data() + offset, &number, sizeof(T));
}

/// An empty folder of its own, removed with all its files at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(std::string_view name) const;

 private:
  std::string path_;
};

}  // namespace tandem::test
