#include "ops/cuda/blas_library.h"

#include <dlfcn.h>

#include "ops/core/symbol.h"

namespace tandem::cuda {
namespace {

BlasLibrary load() {
  BlasLibrary lt;
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    lt.fault = name + " can't be loaded";
    return lt;
  }
  const bool complete = find_symbol(library, "cublasLtCreate", lt.create) &&
                        find_symbol(library, "cublasLtDestroy", lt.destroy) &&
                        find_symbol(library, "cublasLtMatmulDescCreate", lt.desc_create) &&
                        find_symbol(library, "cublasLtMatmulDescDestroy", lt.desc_destroy) &&
                        find_symbol(library, "cublasLtMatmulDescSetAttribute", lt.desc_set) &&
                        find_symbol(library, "cublasLtMatrixLayoutCreate", lt.layout_create) &&
                        find_symbol(library, "cublasLtMatrixLayoutDestroy", lt.layout_destroy) &&
                        find_symbol(library, "cublasLtMatmulPreferenceCreate", lt.preference_create) &&
                        find_symbol(library, "cublasLtMatmulPreferenceSetAttribute", lt.preference_set) &&
                        find_symbol(library, "cublasLtMatmulPreferenceDestroy", lt.preference_destroy) &&
                        find_symbol(library, "cublasLtMatmulAlgoGetHeuristic", lt.heuristic) &&
                        find_symbol(library, "cublasLtMatmul", lt.matmul);
  if (!complete) lt.fault = name + " lacks functions";
  return lt;
}

}  // namespace

const BlasLibrary& blas_library() {
  static const BlasLibrary library = load();
  return library;
}

}  // namespace tandem::cuda
