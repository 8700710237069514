// Forms of a verb that model families differ in.
#pragma once

#include <cstdint>

namespace tandem {

/// Which elements of a head form a rotated pair: 2i and 2i+1 (llama's files), or i and i + n_rot/2 (everyone
/// else's).
enum class RopeStyle : uint8_t { adjacent, halves };

/// The gate of a feed-forward block: silu(g)·u, or gelu(g)·u with the tanh approximation.
enum class Gate : uint8_t { swiglu, geglu_tanh };

/// How keys and values are kept. q8_0: 8 bits a value with a scale in 32, on GPUs only.
enum class CacheType : uint8_t { f16, f32, q8_0 };

}  // namespace tandem
