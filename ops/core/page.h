// How the KV cache is cut, on every device: the engine deals pages, backends keep them.
#pragma once

#include <cstdint>

namespace tandem {

/// Positions of a sequence that one page holds.
inline constexpr int64_t kPageTokens = 64;

}  // namespace tandem
