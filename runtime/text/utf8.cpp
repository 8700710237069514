#include "runtime/text/utf8.h"

#include <cstring>

namespace tandem {
namespace {

/// What may follow a lead byte: how many bytes in all, and the bounds of the second.
struct Lead {
  size_t n_bytes = 0;  ///< 0: no lead byte
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

Lead classify(uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {};  // a continuation, or a lead that only overlong forms have
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};  // above: surrogates
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};  // above: beyond U+10FFFF
  return {};
}

/// The length of the front of `text` that is ASCII, in steps of eight bytes.
size_t ascii_prefix(std::string_view text) {
  constexpr uint64_t kHighBits = 0x8080808080808080;
  size_t n = 0;
  for (; n + 8 <= text.size(); n += 8) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + n, sizeof word);
    if ((word & kHighBits) != 0) break;
  }
  return n;
}

}  // namespace

Utf8Step utf8_step(std::string_view rest) {
  const Lead lead = classify(static_cast<uint8_t>(rest[0]));
  if (lead.n_bytes == 0) return {1, false, false};
  for (size_t i = 1; i < lead.n_bytes; ++i) {
    if (i == rest.size()) return {i, false, true};
    const uint8_t byte = static_cast<uint8_t>(rest[i]);
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {i, false, false};
  }
  return {lead.n_bytes, true, false};
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t n = 0;
  while (n < text.size()) {
    n += ascii_prefix(text.substr(n));
    // After a block that isn't all ASCII, a few steps by hand before blocks are tried again.
    for (int i = 0; i < 8 && n < text.size(); ++i) {
      const Utf8Step step = utf8_step(text.substr(n));
      if (!step.valid) return n;
      n += step.n_bytes;
    }
  }
  return n;
}

void append_utf8(std::string& out, char32_t code_point) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

char32_t utf8_code_point(std::string_view sequence) {
  const auto byte = [sequence](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(sequence[i])); };
  if (sequence.size() == 1) return byte(0);
  char32_t code_point = byte(0) & (0x7Fu >> sequence.size());
  for (size_t i = 1; i < sequence.size(); ++i) code_point = (code_point << 6) | (byte(i) & 0x3F);
  return code_point;
}

std::string replace_invalid_bytes(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 16);
  while (!text.empty()) {
    const size_t n_valid = valid_utf8_prefix(text);
    out.append(text.substr(0, n_valid));
    text.remove_prefix(n_valid);
    if (text.empty()) break;
    out.append(kReplacement);
    text.remove_prefix(1);
  }
  return out;
}

}  // namespace tandem
