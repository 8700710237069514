// All formats that tandem computes with, and the way from a runtime type to a compile-time one.
#pragma once

#include <tuple>

#include "ops/core/check.h"
#include "ops/quant/all.h"

namespace tandem {

using Formats = std::tuple<F32, F16, Bf16, Q40, Q41, Q50, Q51, Q80, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Iq4Xs>;

namespace detail {
template <class F, class Call>
bool call_if(TensorType type, Call& call) {
  static_assert(FloatFormat<F> || QuantFormat<F>);
  if (F::kType != type) return false;
  call(F{});
  return true;
}
}  // namespace detail

/// Calls `call` with a value of the format's type. The type must be one that type_info() calls computable.
template <class Call>
void with_format(TensorType type, Call&& call) {
  const bool found = [&]<class... F>(std::tuple<F...>*) {
    return (detail::call_if<F>(type, call) || ...);
  }(static_cast<Formats*>(nullptr));
  require(found, "no kernels for this tensor type", type_info(type).name);
}

/// n elements of a row as stored (from a block's begin, a whole number of blocks) as floats.
inline void dequantize(TensorType type, const void* row, int64_t n, float* out) {
  with_format(type, [&]<class F>(F) {
    if constexpr (FloatFormat<F>) {
      dequantize<F>(static_cast<const typename F::Element*>(row), n, out);
    } else {
      dequantize<F>(static_cast<const typename F::Block*>(row), n, out);
    }
  });
}

}  // namespace tandem
