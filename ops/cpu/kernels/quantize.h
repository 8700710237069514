// Quantising one row of activations; called by ops/cpu/activations.cpp, built once an instruction set.
#pragma once

#include <cstdint>

#include "ops/cpu/isa.h"

namespace tandem {

struct QuantizeArgs {
  const float* x = nullptr;  ///< (n_groups * 32)
  int64_t n_groups = 0;
  int8_t* high = nullptr;         ///< (n_groups * 32): q8's values or q15's high plane
  int8_t* low = nullptr;          ///< (n_groups * 32): q15's low plane; null means q8
  float* scales = nullptr;        ///< (n_groups)
  int32_t* sums = nullptr;        ///< (n_groups)
  int32_t* first_sums = nullptr;  ///< (n_groups): of the first 16 of each group
};

/// False where a value is not finite; the outputs are then not to be used.
template <class Tag>
bool quantize_row(const QuantizeArgs& args);

}  // namespace tandem
