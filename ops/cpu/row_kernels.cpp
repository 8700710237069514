#include "ops/cpu/kernels/row_kernels.h"

namespace tandem {

const RowKernels& row_kernels(Isa isa) {
  return with_isa(isa, [](auto tag) -> const RowKernels& { return row_kernels_of<decltype(tag)>(); });
}

const SamplingKernels& sampling_kernels(Isa isa) {
  return with_isa(isa,
                  [](auto tag) -> const SamplingKernels& { return sampling_kernels_of<decltype(tag)>(); });
}

}  // namespace tandem
