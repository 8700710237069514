#include "ops/quant/tensor_type.h"

#include <array>

#include "ops/core/check.h"

namespace tandem {
namespace {

using enum TensorType;

constexpr std::array kTypes = {
    TensorTypeInfo{f32, "F32", 1, 4, true},           TensorTypeInfo{f16, "F16", 1, 2, true},
    TensorTypeInfo{bf16, "BF16", 1, 2, true},         TensorTypeInfo{q4_0, "Q4_0", 32, 18, true},
    TensorTypeInfo{q4_1, "Q4_1", 32, 20, true},       TensorTypeInfo{q5_0, "Q5_0", 32, 22, true},
    TensorTypeInfo{q5_1, "Q5_1", 32, 24, true},       TensorTypeInfo{q8_0, "Q8_0", 32, 34, true},
    TensorTypeInfo{q2_k, "Q2_K", 256, 84, true},      TensorTypeInfo{q3_k, "Q3_K", 256, 110, true},
    TensorTypeInfo{q4_k, "Q4_K", 256, 144, true},     TensorTypeInfo{q5_k, "Q5_K", 256, 176, true},
    TensorTypeInfo{q6_k, "Q6_K", 256, 210, true},     TensorTypeInfo{iq4_nl, "IQ4_NL", 32, 18, true},
    TensorTypeInfo{iq4_xs, "IQ4_XS", 256, 136, true}, TensorTypeInfo{q8_1, "Q8_1", 32, 36, false},
    TensorTypeInfo{q8_k, "Q8_K", 256, 292, false},    TensorTypeInfo{iq2_xxs, "IQ2_XXS", 256, 66, false},
    TensorTypeInfo{iq2_xs, "IQ2_XS", 256, 74, false}, TensorTypeInfo{iq3_xxs, "IQ3_XXS", 256, 98, false},
    TensorTypeInfo{iq1_s, "IQ1_S", 256, 50, false},   TensorTypeInfo{iq3_s, "IQ3_S", 256, 110, false},
    TensorTypeInfo{iq2_s, "IQ2_S", 256, 82, false},   TensorTypeInfo{iq1_m, "IQ1_M", 256, 56, false},
    TensorTypeInfo{tq1_0, "TQ1_0", 256, 54, false},   TensorTypeInfo{tq2_0, "TQ2_0", 256, 66, false},
    TensorTypeInfo{mxfp4, "MXFP4", 32, 17, false},    TensorTypeInfo{i8, "I8", 1, 1, false},
    TensorTypeInfo{i16, "I16", 1, 2, false},          TensorTypeInfo{i32, "I32", 1, 4, false},
    TensorTypeInfo{i64, "I64", 1, 8, false},          TensorTypeInfo{f64, "F64", 1, 8, false},
    TensorTypeInfo{nvfp4, "NVFP4", 64, 36, false},    TensorTypeInfo{q1_0, "Q1_0", 128, 18, false},
};

}  // namespace

const TensorTypeInfo* find_tensor_type(uint32_t id) {
  for (const TensorTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == id) return &info;
  }
  return nullptr;
}

const TensorTypeInfo& type_info(TensorType type) {
  const TensorTypeInfo* info = find_tensor_type(static_cast<uint32_t>(type));
  require(info != nullptr, "unknown tensor type", static_cast<uint32_t>(type));
  return *info;
}

int64_t row_bytes(TensorType type, int64_t n_elements) {
  const TensorTypeInfo& info = type_info(type);
  require(n_elements % info.block_elements == 0, "row is not a whole number of blocks", info.name,
          n_elements);
  return n_elements / info.block_elements * info.block_bytes;
}

}  // namespace tandem
