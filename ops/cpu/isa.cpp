#include "ops/cpu/isa.h"

#include <fmt/format.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <array>
#include <cstdlib>
#include <string>

#include "ops/core/error.h"

namespace tandem {
namespace {

struct Supported {
  std::array<Isa, 3> sets{};
  size_t count = 0;
};

#if defined(__x86_64__)
/// Half floats, which __builtin_cpu_supports() of older Clangs does not know.
bool has_f16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

Supported detect() {
  Supported found;
  found.sets[found.count++] = Isa::generic;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx2) found.sets[found.count++] = Isa::avx2;
  if (avx512) found.sets[found.count++] = Isa::avx512;
#endif
  return found;
}

Isa choose() {
  const std::span<const Isa> sets = supported_isas();
  const char* wish = std::getenv("TANDEM_ISA");
  if (wish == nullptr || *wish == '\0') return sets.back();
  for (const Isa isa : sets) {
    if (isa_name(isa) == wish) return isa;
  }
  std::string known;
  for (const Isa isa : sets) known += fmt::format(" {}", isa_name(isa));
  throw Error(ExitCode::usage, fmt::format("TANDEM_ISA={} is not an instruction set that this CPU has", wish),
              fmt::format("choose one of:{}", known));
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::generic:
      break;
  }
  return "generic";
}

std::span<const Isa> supported_isas() {
  static const Supported found = detect();
  return {found.sets.data(), found.count};
}

Isa best_isa() {
  static const Isa best = choose();
  return best;
}

}  // namespace tandem
