// The element formats a GGUF file can name: ids, names and block layout. No arithmetic here; the formats that
// tandem computes with have a header each beside this one.
#pragma once

#include <cstdint>
#include <string_view>

namespace tandem {

/// The ids are the file format's.
enum class TensorType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
};

struct TensorTypeInfo {
  TensorType type;
  std::string_view name;   ///< as llama.cpp prints it, upper case: "Q4_K"
  int64_t block_elements;  ///< elements a block; a row is a whole number of blocks
  int64_t block_bytes;
  bool computable;  ///< tandem has kernels for it
};

/// Null where the id is unknown (removed or future formats included).
const TensorTypeInfo* find_tensor_type(uint32_t id);

/// For a type that is known to be valid.
const TensorTypeInfo& type_info(TensorType type);

/// Bytes of a row of `n_elements`, which must be a whole number of blocks.
int64_t row_bytes(TensorType type, int64_t n_elements);

}  // namespace tandem
