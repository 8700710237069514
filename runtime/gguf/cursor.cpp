#include "runtime/gguf/cursor.h"

#include <fmt/format.h>

#include <utility>

#include "ops/core/error.h"
#include "runtime/gguf/printable.h"

namespace tandem {
namespace {

constexpr uint64_t kWindowBytes = uint64_t{1} << 20;
constexpr size_t kInlineStringBytes = 15;  // a longer std::string takes memory of its own

}  // namespace

GgufCursor::GgufCursor(const ByteSource& source)
    : source_(source),
      window_capacity_(std::min(kWindowBytes, source.size())),
      window_(std::make_unique_for_overwrite<std::byte[]>(window_capacity_)) {}

void GgufCursor::fail(std::string_view what, std::string hint) const {
  throw Error(ExitCode::bad_data,
              fmt::format("{}: {}: {}", printable(source_.name(), kPathCharacters), place_, what),
              std::move(hint));
}

void GgufCursor::expect_bytes(uint64_t n_bytes) const {
  if (n_bytes <= remaining()) return;
  fail(fmt::format("needs {} bytes at offset {}, but the file ends at {}", n_bytes, position(),
                   source_.size()),
       "the file is damaged or its download is incomplete");
}

void GgufCursor::charge(uint64_t memory_bytes) {
  if (memory_bytes > kMemoryBudgetBytes - charged_bytes_) {
    fail(fmt::format("the header would take more than {} MiB of memory", kMemoryBudgetBytes >> 20));
  }
  charged_bytes_ += memory_bytes;
}

void GgufCursor::expect_elements(uint64_t count, uint64_t file_bytes, uint64_t memory_bytes) {
  // Divisions, since the products may overflow.
  if (count > remaining() / file_bytes) {
    fail(fmt::format("claims {} elements of at least {} bytes, but the file has {} bytes left", count,
                     file_bytes, remaining()),
         "the file is damaged or its download is incomplete");
  }
  charge(count > kMemoryBudgetBytes / memory_bytes ? kMemoryBudgetBytes + 1 : count * memory_bytes);
}

void GgufCursor::read_beyond_window(std::byte* into, uint64_t n_bytes) {
  expect_bytes(n_bytes);
  const uint64_t n_buffered = window_size_ - window_used_;
  if (n_buffered > 0) std::memcpy(into, window_.get() + window_used_, n_buffered);
  into += n_buffered;
  n_bytes -= n_buffered;
  const uint64_t next = window_begin_ + window_size_;
  if (n_bytes >= window_capacity_) {  // large arrays go where they belong without a copy
    source_.read(next, {into, n_bytes});
    window_begin_ = next + n_bytes;
    window_size_ = 0;
    window_used_ = 0;
    return;
  }
  fill_window(next);
  std::memcpy(into, window_.get(), n_bytes);
  window_used_ = n_bytes;
}

void GgufCursor::fill_window(uint64_t position) {
  window_begin_ = position;
  window_size_ = std::min(window_capacity_, source_.size() - position);
  window_used_ = 0;
  source_.read(position, {window_.get(), window_size_});
}

void GgufCursor::restart(uint64_t position) {
  charged_bytes_ = 0;
  if (position >= window_begin_ && position - window_begin_ <= window_size_) {
    window_used_ = position - window_begin_;
  } else {
    fill_window(position);
  }
}

void GgufCursor::skip(uint64_t n_bytes) {
  if (n_bytes <= window_size_ - window_used_) {
    window_used_ += n_bytes;
    return;
  }
  expect_bytes(n_bytes);
  window_begin_ = position() + n_bytes;
  window_size_ = 0;
  window_used_ = 0;
}

void GgufCursor::skip_string() {
  const auto n_bytes = read_number<uint64_t>();
  expect_bytes(n_bytes);
  if (n_bytes > kInlineStringBytes) charge(n_bytes + 1);
  skip(n_bytes);
}

void GgufCursor::skip_strings(uint64_t count) {
  expect_elements(count, sizeof(uint64_t), sizeof(std::string));
  uint64_t n_left = count;
  while (n_left > 0) {
    // Short strings that lie in the window, which nearly all do, without a call each.
    uint64_t used = window_used_;
    while (n_left > 0 && window_size_ - used >= sizeof(uint64_t)) {
      uint64_t n_bytes;
      std::memcpy(&n_bytes, window_.get() + used, sizeof n_bytes);
      if (n_bytes > kInlineStringBytes || n_bytes > window_size_ - used - sizeof n_bytes) break;
      used += sizeof n_bytes + n_bytes;
      --n_left;
    }
    window_used_ = used;
    if (n_left == 0) return;
    skip_string();
    --n_left;
  }
}

std::string GgufCursor::read_string() {
  const auto n_bytes = read_number<uint64_t>();
  if (n_bytes <= window_size_ - window_used_) {
    if (n_bytes > kInlineStringBytes) charge(n_bytes + 1);
    std::string text(reinterpret_cast<const char*>(window_.get() + window_used_), n_bytes);
    window_used_ += n_bytes;
    return text;
  }
  expect_bytes(n_bytes);
  charge(n_bytes + 1);
  std::string text(n_bytes, '\0');
  read_bytes(text.data(), n_bytes);
  return text;
}

std::vector<std::string> GgufCursor::read_strings(uint64_t count) {
  expect_elements(count, sizeof(uint64_t), sizeof(std::string));
  std::vector<std::string> strings;
  strings.reserve(count);
  for (uint64_t i = 0; i < count; ++i) strings.push_back(read_string());
  return strings;
}

}  // namespace tandem
