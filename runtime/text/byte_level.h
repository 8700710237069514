// GPT-2's byte alphabet: each byte is written as one printable character, so that merges are lists of text.
// Bytes that print in Latin-1 stand for themselves, the others for U+0100 and up. Called by bpe and pieces.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tandem {

/// (256) the character that stands for each byte, as UTF-8.
const std::array<std::string, 256>& byte_characters();

/// The byte that a character stands for; nothing for characters outside the alphabet.
std::optional<uint8_t> byte_of_character(char32_t character);

/// The bytes that a byte-level token stands for. Characters outside the alphabet stand for themselves, as do
/// bytes that are not UTF-8.
std::string decode_byte_level(std::string_view token);

/// The way back: `bytes` in the alphabet, appended to `out`.
void append_byte_level(std::string& out, std::string_view bytes);

}  // namespace tandem
