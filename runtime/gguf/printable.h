// Text from a file made safe to show. A hostile name may hold line breaks or terminal escapes; every message
// and table of runtime/gguf goes through here. Never used on text that a model generates.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tandem {

inline constexpr size_t kPathCharacters = 4096;  ///< of a path in a message

/// `text` as one line of printable UTF-8: control characters (C0, DEL, C1, line separators) and bytes that
/// are not UTF-8 are written as \n, \t, \xNN or \u{NN}; what exceeds `max_characters` is replaced by "…".
std::string printable(std::string_view text, size_t max_characters);

/// printable() in single quotes, short enough for an error message.
std::string in_quotes(std::string_view text);

}  // namespace tandem
