// Forms of a verb that model families differ in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tandem {

/// Which elements of a head form a rotated pair: 2i and 2i+1 (llama's files), or i and i + n_rot/2 (everyone
/// else's).
enum class RopeStyle : uint8_t { adjacent, halves };

/// The gate of a feed-forward block: silu(g)·u, or gelu(g)·u with the tanh approximation.
enum class Gate : uint8_t { swiglu, geglu_tanh };

/// How keys and values are kept. q8_0 and q4_0: 8 or 4 bits a value and a half scale for 32 of them.
enum class CacheType : uint8_t { f16, f32, q8_0, q4_0 };

constexpr bool is_quantised(CacheType type) {
  return type == CacheType::q8_0 || type == CacheType::q4_0;
}

/// By CacheType, as --cache-type-k takes them.
inline constexpr std::array<std::string_view, 4> kCacheTypeNames = {"f16", "f32", "q8_0", "q4_0"};

constexpr std::string_view cache_type_name(CacheType type) {
  return kCacheTypeNames[static_cast<size_t>(type)];
}

}  // namespace tandem
