// cuBLASLt, loaded at run time, so that a build with it runs where it isn't. Included where cublasLt.h is
// there only.
#pragma once

#include <cublasLt.h>

#include <string>

namespace tandem::cuda {

/// cuBLASLt's functions; `fault` says why they can't be had, or is empty.
struct BlasLibrary {
  std::string fault;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
};

/// Loaded when first asked for; stays loaded.
const BlasLibrary& blas_library();

}  // namespace tandem::cuda
