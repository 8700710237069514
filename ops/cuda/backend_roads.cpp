// The CUDA backend has its products' roads measured (roads.h, road_timer.h).
#include <algorithm>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/format_kernels.h"
#include "ops/cuda/road_timer.h"

namespace tandem::cuda {
namespace {

/// Whether one road can take all parts: by format alone, as every rank sees it.
bool go_together(const Product& product) {
  const DeviceMatrix& first = on_device(*product.parts.at(0));
  return std::all_of(product.parts.begin(), product.parts.end(), [&](const Matrix* part) {
    const DeviceMatrix& matrix = on_device(*part);
    return matrix.form() == first.form() && unpacked_bytes(matrix.type()) == unpacked_bytes(first.type()) &&
           has_batch_kernel(matrix.type()) == has_batch_kernel(first.type());
  });
}

std::vector<CudaMatrix*> parts_with_rows(const Product& product) {
  std::vector<CudaMatrix*> out;
  for (Matrix* part : product.parts) {
    auto* matrix = static_cast<DeviceMatrix*>(part);
    if (!matrix->empty()) out.push_back(matrix);
  }
  return out;
}

}  // namespace

std::optional<RoadKey> CudaBackend::key_of(const Product& product) const {
  const std::vector<CudaMatrix*> parts = parts_with_rows(product);
  if (parts.empty() || !go_together(product) || options_.deterministic) return std::nullopt;
  const bool batch = has_batch_kernel(parts[0]->type());
  const bool unpacks = products_->has_unpacked(parts[0]->type());
  if (product.of_expert ? !batch || !unpacks : !batch && !unpacks) return std::nullopt;  // there is one road
  RoadKey key;
  for (const CudaMatrix* part : parts) key.parts.push_back({part->type(), part->n_rows()});
  key.n_cols = parts[0]->n_cols();
  key.wide = on_device(*parts[0]).form() == ActForm::q15;
  key.of_expert = product.of_expert;
  return key;
}

std::optional<Roads> CudaBackend::measure(std::span<const Product> alike) {
  constexpr size_t kMostProducts = 32;
  constexpr size_t kEnoughBytes = size_t{256} << 20;  // more than any L2
  constexpr size_t kSpareBytes = size_t{64} << 20;    // for kernels that are loaded meanwhile
  std::vector<std::vector<CudaMatrix*>> products;
  size_t n_bytes = 0;
  for (const Product& product : alike) {
    if (products.size() == kMostProducts || n_bytes >= kEnoughBytes) break;
    products.push_back(parts_with_rows(product));
    for (const CudaMatrix* part : products.back()) n_bytes += part->bytes();
  }
  const ActForm form = on_device(*alike[0].parts[0]).form();
  RoadTimer timer(*products_, std::move(products), form, options_.early);
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total));
  if (free < timer.bytes() + kSpareBytes) return std::nullopt;
  return timer.measure(alike[0].of_expert, alike[0].behind_gate);
}

void CudaBackend::set_roads(const Product& product, const Roads& roads) {
  if (!go_together(product)) return;
  for (Matrix* part : product.parts) {
    auto& matrix = static_cast<DeviceMatrix&>(*part);
    // run_step() knows when an expert's tokens are too many for GEMV.
    matrix.set_roads({product.of_expert ? matrix.roads().gemv : roads.gemv, roads.batch});
  }
}

}  // namespace tandem::cuda
