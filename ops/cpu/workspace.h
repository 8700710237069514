// How much memory the CPU backend's step buffers take: plain arithmetic beside the backend, for plans
// (runtime/model/memory_plan). Allocates nothing.
#pragma once

#include <vector>

#include "ops/cpu/activations.h"
#include "ops/verbs.h"

namespace tandem {

/// In which forms the rows of a step are kept: of each buffer, the sets that its readers ask for in turn (a
/// layer's may differ from the next one's; a buffer keeps the memory of the largest).
struct CpuStepForms {
  std::vector<ActForms> normed;    // (n_embd)
  std::vector<ActForms> attended;  // (local heads · head_dim)
  std::vector<ActForms> hidden;    // (local FFN columns)
  ActForms head;                   // (n_embd), of outputs
};

/// What CpuBackend::workspace_bytes() says after a step of n_tokens tokens with n_outputs rows of logits that
/// was the largest so far. With experts it is a bound: it is reached where all tokens choose the same one.
size_t cpu_workspace_bytes(const BackendShape& shape, const CpuStepForms& forms, int64_t n_tokens,
                           int64_t n_outputs);

/// Bytes of the largest contribution to an exchange in such a step.
constexpr size_t cpu_contribution_bytes(const BackendShape& shape, int64_t n_tokens) {
  return static_cast<size_t>(n_tokens * shape.n_embd) * sizeof(int64_t);
}

}  // namespace tandem
