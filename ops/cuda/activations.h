// The input of the GEMV kernels on the device: (n_tokens × columns) in one form, as records a segment of 256
// stored columns (activation_layout.h), quantised in groups of 32 as ops/cpu/activations.h defines it, to the
// same bits.
#pragma once

#include "ops/core/range.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {

enum class ActForm : uint8_t {
  f32,  ///< the floats themselves, for F32, F16 and BF16 weights
  q8,   ///< int8 and a scale a group
  q15,  ///< two int8 planes: 15 bits, where rounding costs most
  f16,  ///< halves and a scale a token, for tensor cores
};
inline constexpr int kActForms = 4;

class CudaActivations {
 public:
  /// `cols`: the columns of the stored matrix that the readers' shard owns. All zeros until filled.
  CudaActivations(int64_t max_tokens, Range cols, ActForm form);

  int64_t max_tokens() const { return max_tokens_; }
  Range cols() const { return cols_; }
  ActForm form() const { return form_; }
  int64_t token_bytes() const { return token_bytes_; }
  std::byte* data() const { return data_.data(); }  // (max_tokens, token_bytes)
  /// f16 only: the first token's scale; the next ones are token_bytes() apart.
  const float* scales() const;

  /// Fills the first n_tokens from floats on the device, in order with `stream`. x: (n_tokens, x_stride),
  /// cols().size() of each row are read. A group whose largest magnitude is below 1e-36 becomes zeros.
  /// `not_finite` (or null): a word on the device that is set to 1 where a value is not finite, and left
  /// alone otherwise. `early`: see gemv.h.
  void fill(const float* x, int64_t x_stride, int64_t n_tokens, uint32_t* not_finite, cudaStream_t stream,
            bool early = false);

 private:
  int64_t max_tokens_;
  Range cols_;
  ActForm form_;
  int64_t token_bytes_ = 0;
  DeviceBuffer<std::byte> data_;
};

}  // namespace tandem::cuda
