#include "launch/doctor/matrix_speed.h"

#include <algorithm>
#include <array>
#include <vector>

#include "ops/cuda/blas_library.h"
#include "ops/cuda/memory.h"

namespace tandem::cuda {
namespace {

constexpr int kSize = 4096;
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr int kWarmUps = 3;
constexpr int kRuns = 15;

/// One product's descriptors; square matrices throughout.
struct Product {
  explicit Product(const BlasLibrary& library) : lt(library) {
    ok = lt.create(&handle) == CUBLAS_STATUS_SUCCESS &&
         lt.desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
         lt.layout_create(&layout, CUDA_R_16F, kSize, kSize, kSize) == CUBLAS_STATUS_SUCCESS &&
         lt.preference_create(&preference) == CUBLAS_STATUS_SUCCESS &&
         lt.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                           sizeof kWorkspaceBytes) == CUBLAS_STATUS_SUCCESS &&
         lt.heuristic(handle, desc, layout, layout, layout, layout, preference, 1, &choice, &n_choices) ==
             CUBLAS_STATUS_SUCCESS &&
         n_choices == 1;
  }
  ~Product() {
    if (preference != nullptr) lt.preference_destroy(preference);
    if (layout != nullptr) lt.layout_destroy(layout);
    if (desc != nullptr) lt.desc_destroy(desc);
    if (handle != nullptr) lt.destroy(handle);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  const BlasLibrary& lt;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t choice{};
  int n_choices = 0;
  bool ok = false;
};

}  // namespace

double measure_fp16_tflops(std::string& why_not) {
  const BlasLibrary& lt = blas_library();
  why_not = lt.fault;
  if (!why_not.empty()) return 0;
  Product product(lt);
  if (!product.ok) {
    why_not = "cuBLASLt offers no product here";
    return 0;
  }
  // Values of both signs: the power that a product draws, and with it the clock, depends on them.
  constexpr size_t kCount = size_t{kSize} * kSize;
  std::vector<uint16_t> values(kCount);
  for (size_t i = 0; i < kCount; ++i)
    values[i] = static_cast<uint16_t>(0x3000 + i * 2654435761U % 0x0c00 + (i * 40503U % 7 < 3 ? 0x8000 : 0));
  std::array<DeviceBuffer<uint16_t>, 3> matrices = {
      DeviceBuffer<uint16_t>(kCount), DeviceBuffer<uint16_t>(kCount), DeviceBuffer<uint16_t>(kCount)};
  for (size_t m = 0; m < 2; ++m)
    check(cudaMemcpy(matrices[m].data(), values.data(), matrices[m].bytes(), cudaMemcpyHostToDevice));
  const DeviceBuffer<std::byte> workspace(kWorkspaceBytes);
  const Stream stream;
  const float one = 1;
  const float zero = 0;
  std::vector<float> times_us;
  for (int run = -kWarmUps; run < kRuns; ++run) {
    const Event begin;
    const Event end;
    begin.record(stream);
    const cublasStatus_t status =
        lt.matmul(product.handle, product.desc, &one, matrices[0].data(), product.layout, matrices[1].data(),
                  product.layout, &zero, matrices[2].data(), product.layout, matrices[2].data(),
                  product.layout, &product.choice.algo, workspace.data(), kWorkspaceBytes, stream.get());
    end.record(stream);
    stream.synchronize();
    if (status != CUBLAS_STATUS_SUCCESS) {
      why_not = "cuBLASLt fails with status " + std::to_string(static_cast<int>(status));
      return 0;
    }
    if (run >= 0) times_us.push_back(Event::elapsed_us(begin, end));
  }
  std::nth_element(times_us.begin(), times_us.begin() + kRuns / 2, times_us.end());
  return 2.0 * kSize * kSize * kSize / double{times_us[kRuns / 2]} * 1e-6;
}

}  // namespace tandem::cuda
