#include "ops/cpu/workspace.h"

#include <algorithm>

namespace tandem {
namespace {

size_t largest(int64_t n_tokens, int64_t n_cols, const std::vector<ActForms>& sets) {
  size_t most = 0;
  for (const ActForms forms : sets) most = std::max(most, Activations::bytes_of(n_tokens, n_cols, forms));
  return most;
}

}  // namespace

size_t cpu_workspace_bytes(const BackendShape& shape, const CpuStepForms& forms, int64_t n_tokens,
                           int64_t n_outputs) {
  const int64_t n_heads_cols = static_cast<int64_t>(shape.kv_of_head.size()) * shape.head_dim;
  const int64_t n_kv_cols = shape.n_kv_heads * shape.head_dim;
  const int64_t floats =
      n_tokens * (shape.n_embd + n_heads_cols + 2 * n_kv_cols + 2 * shape.n_ff) + n_outputs * shape.n_vocab;
  size_t n_bytes = static_cast<size_t>(floats) * sizeof(float);
  n_bytes += largest(n_tokens, shape.n_embd, forms.normed);
  n_bytes += largest(n_tokens, n_heads_cols, forms.attended);
  n_bytes += largest(n_tokens, shape.n_ff, forms.hidden);
  n_bytes += Activations::bytes_of(n_outputs, shape.n_embd, forms.head);
  if (shape.n_experts_used == 0 || shape.n_ff == 0) return n_bytes;
  // one expert's tokens: their input, and their sums
  return n_bytes + largest(n_tokens, shape.n_embd, forms.normed) +
         static_cast<size_t>(n_tokens * shape.n_embd) * sizeof(int64_t);
}

}  // namespace tandem
