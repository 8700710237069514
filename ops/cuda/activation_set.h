// A step's activations in each form that some matrix reads: made when a form is first asked for, kept.
#pragma once

#include <array>
#include <optional>

#include "ops/core/check.h"
#include "ops/cuda/activations.h"

namespace tandem::cuda {

class ActivationSet {
 public:
  void reset(int64_t max_tokens) {
    max_tokens_ = max_tokens;
    for (auto& form : forms_) form.reset();
  }
  /// All matrices that read a set read the same columns.
  CudaActivations& get(ActForm form, Range cols) {
    auto& slot = forms_[static_cast<size_t>(form)];
    if (!slot) slot.emplace(max_tokens_, cols, form);
    require(slot->cols() == cols, "activations: columns", cols.begin, cols.end);
    return *slot;
  }
  size_t bytes() const {
    size_t sum = 0;
    for (const auto& form : forms_) {
      if (form) sum += static_cast<size_t>(form->max_tokens() * form->token_bytes());
    }
    return sum;
  }

 private:
  int64_t max_tokens_ = 0;
  std::array<std::optional<CudaActivations>, kActForms> forms_;
};

}  // namespace tandem::cuda
