// Reads a GGUF header in order, through a window of the file. The one place that decides whether the file
// backs what it claims: no count is believed before the bytes for it are known to be there and the memory for
// it is within the budget. Used by runtime/gguf/part.cpp alone.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "runtime/gguf/byte_source.h"

namespace tandem {

static_assert(std::endian::native == std::endian::little,
              "GGUF files are read on little-endian machines only");

class GgufCursor {
 public:
  /// What one file's header may take in memory. A vocabulary of a million tokens with three million merges
  /// takes 200 MiB; a sparse file of a terabyte can claim anything.
  static constexpr uint64_t kMemoryBudgetBytes = uint64_t{256} << 20;

  explicit GgufCursor(const ByteSource& source);

  uint64_t position() const { return window_begin_ + window_used_; }
  uint64_t remaining() const { return source_.size() - position(); }

  /// Goes back to an earlier position, with the memory budget whole again.
  void restart(uint64_t position);

  /// What is being read now, for messages: "the header", "key 'a.b'", "tensor 'c'".
  void set_place(std::string place) { place_ = std::move(place); }

  template <class T>
  T read_number() {
    static_assert(std::is_arithmetic_v<T>);
    T number;
    read_bytes(&number, sizeof(T));
    return number;
  }

  /// A length and its bytes.
  std::string read_string();

  template <class T>
  std::vector<T> read_numbers(uint64_t count) {
    static_assert(std::is_arithmetic_v<T>);
    expect_elements(count, sizeof(T), sizeof(T));
    std::vector<T> numbers(count);
    read_bytes(numbers.data(), count * sizeof(T));
    return numbers;
  }

  std::vector<std::string> read_strings(uint64_t count);

  // The same checks without the reading; the memory is charged as if it were taken.
  void skip_string();
  void skip_strings(uint64_t count);
  void skip(uint64_t n_bytes);

  /// Refuses `count` things that take at least `file_bytes` each in the rest of the file and `memory_bytes`
  /// each in memory, unless both are there.
  void expect_elements(uint64_t count, uint64_t file_bytes, uint64_t memory_bytes);

  /// Throws Error(bad_data): "file: place: what".
  [[noreturn]] void fail(std::string_view what, std::string hint = {}) const;

 private:
  void read_bytes(void* into, uint64_t n_bytes) {
    if (n_bytes <= window_size_ - window_used_) {
      if (n_bytes > 0) std::memcpy(into, window_.get() + window_used_, n_bytes);
      window_used_ += n_bytes;
    } else {
      read_beyond_window(static_cast<std::byte*>(into), n_bytes);
    }
  }
  void read_beyond_window(std::byte* into, uint64_t n_bytes);
  void fill_window(uint64_t position);
  void expect_bytes(uint64_t n_bytes) const;
  void charge(uint64_t memory_bytes);

  const ByteSource& source_;
  std::string place_ = "the header";
  uint64_t window_capacity_;
  std::unique_ptr<std::byte[]> window_;  // (window_capacity_), the first window_size_ are filled
  uint64_t window_begin_ = 0;            // in the file
  uint64_t window_size_ = 0;
  uint64_t window_used_ = 0;
  uint64_t charged_bytes_ = 0;
};

}  // namespace tandem
