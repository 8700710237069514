#include "runtime/text/byte_level.h"

#include "runtime/text/utf8.h"

namespace tandem {
namespace {

constexpr char32_t kFirstStandIn = 0x100;  // of the bytes that don't print

bool prints(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int16_t, 512> bytes{};  // by code point, −1 outside the alphabet

  Alphabet() {
    bytes.fill(-1);
    char32_t next = kFirstStandIn;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const char32_t character = prints(byte) ? static_cast<char32_t>(byte) : next++;
      append_utf8(characters[byte], character);
      bytes[character] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet made;
  return made;
}

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  return alphabet().characters;
}

std::optional<uint8_t> byte_of_character(char32_t character) {
  if (character >= alphabet().bytes.size() || alphabet().bytes[character] < 0) return std::nullopt;
  return static_cast<uint8_t>(alphabet().bytes[character]);
}

std::string decode_byte_level(std::string_view token) {
  std::string bytes;
  bytes.reserve(token.size());
  while (!token.empty()) {
    const Utf8Step step = utf8_step(token);
    const std::string_view sequence = token.substr(0, step.n_bytes);
    const std::optional<uint8_t> byte =
        step.valid ? byte_of_character(utf8_code_point(sequence)) : std::nullopt;
    if (byte) {
      bytes.push_back(static_cast<char>(*byte));
    } else {
      bytes.append(sequence);
    }
    token.remove_prefix(step.n_bytes);
  }
  return bytes;
}

void append_byte_level(std::string& out, std::string_view bytes) {
  for (const char byte : bytes) out.append(byte_characters()[static_cast<uint8_t>(byte)]);
}

}  // namespace tandem
