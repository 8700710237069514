// The instruction sets that the CPU kernels are built for, and which one this process runs.
//
// Every kernel is a template over one of the tags below, instantiated in a translation unit of its own that
// is compiled with that set's flags (ops/kernels.cmake). So no two units emit one symbol with different
// flags, and code of the baseline never holds an instruction that the CPU may lack. Kernel units must not use
// std:: containers, algorithms or anything else whose instances the linker could merge with the baseline's.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

namespace tandem {

struct Generic {};  ///< any CPU, plain C++
struct Avx2 {};     ///< AVX2, FMA, F16C
struct Avx512 {};   ///< AVX-512 F, BW, VL, DQ and VNNI

enum class Isa : uint8_t { generic, avx2, avx512 };

/// "generic", "avx2", "avx512".
std::string_view isa_name(Isa isa);

/// Those that this CPU (and build) can run, the plainest first.
std::span<const Isa> supported_isas();

/// What the kernels use: the best supported one, or the one named by TANDEM_ISA. Decided once.
/// Throws Error where TANDEM_ISA names an unknown set or one that the CPU lacks.
Isa best_isa();

/// Calls f with the tag of `isa`: with_isa(best_isa(), [&](auto tag) { return kernels<decltype(tag)>(); }).
template <class F>
decltype(auto) with_isa([[maybe_unused]] Isa isa, F&& f) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return std::forward<F>(f)(Avx512{});
  if (isa == Isa::avx2) return std::forward<F>(f)(Avx2{});
#endif
  return std::forward<F>(f)(Generic{});
}

}  // namespace tandem
