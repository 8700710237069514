#include "ops/cuda/blas.h"

#include <array>
#include <map>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "ops/cuda/blas_library.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what Hopper's kernels ask for

void check_blas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(ExitCode::unavailable,
                std::string("cuBLASLt: ") + what + " failed with " + std::to_string(status));
}

/// Everything that choosing a kernel depends on.
using Key = std::array<int64_t, 9>;  // type, m, n, k, strides, alignments

/// Bytes that an address is a multiple of, as far as kernels care.
uint32_t alignment_of(const void* p) {
  constexpr uintptr_t kMost = 256;
  const auto address = reinterpret_cast<uintptr_t>(p) | kMost;
  return static_cast<uint32_t>(address & (~address + 1));
}

Key key_of(const BlasProduct& p) {
  return {static_cast<int64_t>(p.type),
          p.m,
          p.n,
          p.k,
          p.x_stride,
          p.out_stride,
          alignment_of(p.w),
          alignment_of(p.x),
          alignment_of(p.out)};
}

/// A product's descriptors and the kernel chosen for it. Columns as cuBLAS counts them: out is (m, n) with n
/// columns.
class Plan {
 public:
  Plan(const BlasLibrary& lt, cublasLtHandle_t handle, const BlasProduct& p) : lt_(lt) {
    const cudaDataType type = p.type == BlasType::halves ? CUDA_R_16F : CUDA_R_32F;
    check_blas(lt.desc_create(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check_blas(lt.desc_set(desc_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
               "a description");
    check_blas(lt.layout_create(&w_, type, static_cast<uint64_t>(p.k), static_cast<uint64_t>(p.m), p.k),
               "a layout");
    check_blas(
        lt.layout_create(&x_, type, static_cast<uint64_t>(p.k), static_cast<uint64_t>(p.n), p.x_stride),
        "a layout");
    check_blas(lt.layout_create(&out_, CUDA_R_32F, static_cast<uint64_t>(p.m), static_cast<uint64_t>(p.n),
                                p.out_stride),
               "a layout");
    cublasLtMatmulPreference_t preference = nullptr;
    check_blas(lt.preference_create(&preference), "a preference");
    lt.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                      sizeof kWorkspaceBytes);
    const std::array alignments = {alignment_of(p.w), alignment_of(p.x), alignment_of(p.out),
                                   alignment_of(p.out)};
    const std::array names = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (size_t i = 0; i < names.size(); ++i)
      lt.preference_set(preference, names[i], &alignments[i], sizeof alignments[i]);
    int n_choices = 0;
    const cublasStatus_t status =
        lt.heuristic(handle, desc_, w_, x_, out_, out_, preference, 1, &choice_, &n_choices);
    lt.preference_destroy(preference);
    check_blas(status, "the choice of a kernel");
    if (n_choices == 0) throw Error(ExitCode::unavailable, "cuBLASLt has no kernel for a product");
  }
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {w_, x_, out_}) {
      if (layout != nullptr) lt_.layout_destroy(layout);
    }
    if (desc_ != nullptr) lt_.desc_destroy(desc_);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  void run(cublasLtHandle_t handle, const BlasProduct& p, std::byte* workspace, cudaStream_t stream) const {
    const float one = 1;
    const float zero = 0;
    check_blas(lt_.matmul(handle, desc_, &one, p.w, w_, p.x, x_, &zero, p.out, out_, p.out, out_,
                          &choice_.algo, workspace, kWorkspaceBytes, stream),
               "a product");
  }

 private:
  const BlasLibrary& lt_;
  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatrixLayout_t w_ = nullptr;
  cublasLtMatrixLayout_t x_ = nullptr;
  cublasLtMatrixLayout_t out_ = nullptr;
  cublasLtMatmulHeuristicResult_t choice_{};
};

class LtBlas final : public Blas {
 public:
  LtBlas() : workspace_(kWorkspaceBytes) { check_blas(blas_library().create(&handle_), "its start"); }
  ~LtBlas() override {
    plans_.clear();
    blas_library().destroy(handle_);
  }
  void multiply(const BlasProduct& product, cudaStream_t stream) override {
    if (product.m == 0 || product.n == 0) return;
    constexpr size_t kMostPlans = 4096;  // lengths of prompts differ
    if (plans_.size() > kMostPlans) plans_.clear();
    const Key key = key_of(product);
    auto plan = plans_.find(key);
    if (plan == plans_.end())
      plan = plans_.emplace(key, std::make_unique<Plan>(blas_library(), handle_, product)).first;
    plan->second->run(handle_, product, workspace_.data(), stream);
  }
  size_t workspace_bytes() const override { return workspace_.bytes(); }

 private:
  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer<std::byte> workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace

std::unique_ptr<Blas> Blas::open(std::string& why_not) {
  why_not = blas_library().fault;
  if (!why_not.empty()) return nullptr;
  return std::make_unique<LtBlas>();
}

}  // namespace tandem::cuda
