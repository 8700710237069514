// cuBLASLt in a build that found no cublasLt.h of its CUDA.
#include "ops/cuda/blas.h"

namespace tandem::cuda {

std::unique_ptr<Blas> Blas::open(std::string& why_not) {
  why_not = "built without cublasLt.h";
  return nullptr;
}

}  // namespace tandem::cuda
