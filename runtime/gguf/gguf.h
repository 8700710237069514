// GGUF files: metadata and the tensor directory. No math, no tensor data; trusts nothing in the file.
// Called by launch/commands and runtime/model; the weights' bytes are read by runtime/model/weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ops/quant/tensor_type.h"

namespace tandem {

class ByteSource;

/// Metadata value types; the ids are the file format's.
enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// "u8", "bool", "string", …
std::string_view type_name(GgufType type);

/// An array of one element type, held in that type (bools as uint8_t 0 or 1), so that it takes no more memory
/// than the file backs. Nested arrays are refused by the reader.
struct GgufArray {
  GgufType element_type = GgufType::u8;
  std::variant<std::vector<std::string>, std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>,
               std::vector<int16_t>, std::vector<uint32_t>, std::vector<int32_t>, std::vector<uint64_t>,
               std::vector<int64_t>, std::vector<float>, std::vector<double>>
      values;
  size_t size() const;
  bool operator==(const GgufArray&) const = default;
};

/// One metadata value. Integers of every width are held as int64/uint64, with the file's type kept.
struct GgufValue {
  GgufType type = GgufType::u32;
  std::variant<uint64_t, int64_t, double, bool, std::string, GgufArray> value;
  bool operator==(const GgufValue&) const = default;
};

/// "u32", "array of string", …
std::string type_name(const GgufValue& value);

using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

struct GgufTensor {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<int64_t> shape;  ///< fastest-varying first, as in the file: {n_cols, n_rows, n_matrices…}
  int file_index = 0;          ///< which of GgufFile::paths()
  uint64_t file_offset = 0;    ///< of the first byte, absolute in that file
  uint64_t n_bytes = 0;

  int64_t n_cols() const { return shape.empty() ? 1 : shape[0]; }
  int64_t n_rows() const;  ///< product of all dimensions but the first
  int64_t n_elements() const { return n_cols() * n_rows(); }
};

/// A GGUF model, in one file or in split files.
class GgufFile {
 public:
  /// Opens `path` (for split files: the first of them, the others are found beside it).
  /// Throws Error(io) where a file can't be read and Error(bad_data) where its content is wrong,
  /// with one line that names the file, the key or the tensor, and what is wrong.
  static GgufFile open(const std::string& path);

  /// The same for a single file's bytes in memory (tests, fuzzing); `name` stands for its path. A part of a
  /// split file is refused.
  static GgufFile parse(std::span<const std::byte> bytes, const std::string& name);

  /// A model of which there is only the directory (a plan for a file that isn't there yet). The tensors'
  /// sizes are set from their types and shapes; offsets mean nothing, and nothing can be loaded from it.
  static GgufFile from_directory(const std::string& name, GgufMetadata metadata,
                                 std::vector<GgufTensor> tensors);

  const std::vector<std::string>& paths() const { return paths_; }
  uint32_t version() const { return version_; }
  uint64_t total_bytes() const { return total_bytes_; }  ///< of all files

  /// Of a split file: the first part's. A later part may repeat a key of it, with the same value only.
  const GgufMetadata& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  ///< in file order
  const GgufTensor* find_tensor(std::string_view name) const;

  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }

  // Typed look-ups. The `_or` forms return the fallback where the key is missing; the others throw
  // Error(bad_data). Both throw Error(bad_data) naming key and types where the value has the wrong type or
  // doesn't fit (any integer type is taken for an integer; f32 and f64 and integers for a float, which must
  // be finite).
  int64_t get_int(std::string_view key, int64_t min, int64_t max) const;
  int64_t get_int_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) const;
  double get_float(std::string_view key) const;
  double get_float_or(std::string_view key, double fallback) const;
  bool get_bool_or(std::string_view key, bool fallback) const;
  const std::string& get_string(std::string_view key) const;
  std::string get_string_or(std::string_view key, std::string_view fallback) const;

  // Arrays; the pointer is null where the key is missing, Error(bad_data) where the element type is another.
  const std::vector<std::string>* find_strings(std::string_view key) const;
  const std::vector<float>* find_floats(std::string_view key) const;
  const std::vector<int32_t>* find_ints(std::string_view key) const;
  /// For values that a file may give once or once a layer: the elements of an array of any integer type or of
  /// bools, each within min … max. Empty where the key is missing or its value is no array.
  std::optional<std::vector<int64_t>> find_integers(std::string_view key, int64_t min, int64_t max) const;

  /// The path for error messages.
  const std::string& path() const { return paths_.front(); }

 private:
  const GgufValue& value(std::string_view key) const;
  const GgufValue* find_value(std::string_view key) const;
  [[noreturn]] void fail_key(std::string_view key, std::string_view what) const;
  template <class T>
  const std::vector<T>* find_array(std::string_view key, GgufType element_type) const;
  static GgufFile read_one(const ByteSource& source);
  int64_t n_parts() const;
  void open_other_parts(int64_t n_parts);
  void append(GgufFile&& part);

  std::vector<std::string> paths_;
  uint32_t version_ = 0;
  uint64_t total_bytes_ = 0;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> tensor_index_;
};

}  // namespace tandem
