#include "ops/cpu/norm.h"

#include <algorithm>
#include <vector>

#include "ops/core/check.h"
#include "ops/cpu/kernels/row_kernels.h"

namespace tandem {

bool rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out, Isa isa) {
  require(n > 0, "rms_norm of an empty row");
  return row_kernels(isa).rms_norm(x, weight, n, eps, out);
}

bool reduce_add_norm(const ReduceAddNorm& args, Range tokens, Isa isa) {
  const RowKernels& kernels = row_kernels(isa);
  const int64_t n = args.n_cols;
  require(n > 0 && (args.norm_weight == nullptr || args.out_padded_cols <= args.out_stride),
          "reduce_add_norm", n, args.out_padded_cols, args.out_stride);
  static thread_local std::vector<float> sum;
  sum.resize(static_cast<size_t>(n));
  bool finite = true;
  for (int64_t token = tokens.begin; token < tokens.end; ++token) {
    float* residual = args.residual + token * args.residual_stride;
    if (args.n_ranks > 0) {
      kernels.add_slots(args.slots, args.n_ranks, token * args.slot_stride, n, args.bias, sum.data());
      if (args.post_norm_weight != nullptr) {
        finite &= kernels.rms_norm(sum.data(), args.post_norm_weight, n, args.eps, sum.data());
      }
      kernels.add(residual, sum.data(), n);
    }
    if (args.norm_weight == nullptr) {
      finite &= kernels.all_finite(residual, n);
      continue;
    }
    float* out = args.out + token * args.out_stride;
    finite &= kernels.rms_norm(residual, args.norm_weight, n, args.eps, out);
    std::fill(out + n, out + std::max(n, args.out_padded_cols), 0.0F);
  }
  return finite;
}

void reduce_floats(const float* const* slots, int n_ranks, int64_t n, float scale, float* out, Isa isa) {
  require(n_ranks >= 1, "a sum over ranks", n_ranks);
  row_kernels(isa).reduce_floats(slots, n_ranks, n, scale, out);
}

}  // namespace tandem
