// Which kernels multiply a step's tokens, and the road of many tokens: weights made halves a matrix at a time
// and multiplied by our own kernel or by cuBLASLt. Called by the backend.
//
//   gemv      few tokens   int8 products (gemv.h), the memory's speed
//   batch     more         tensor cores straight from tiles (batch.h)
//   unpacked  many         unpacking; gemm.h, or cuBLASLt and a pass over its sums for scales
//
// How many are few is written in each matrix (CudaMatrix::roads()). The input's form says which road was
// meant: f16 is for the last two. Where a road isn't there (no tensor cores, no library) another takes the
// tokens, some at a time.
//
// A deterministic one doesn't count tokens: those of prompts (`prompt`) take the third road where the device
// has our own kernel for it, all others the second, by one of its kernels; a format without them takes the
// first, in one order of sums.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "ops/cuda/batch.h"
#include "ops/cuda/blas.h"
#include "ops/cuda/device_matrix.h"
#include "ops/cuda/format_kernels.h"
#include "ops/cuda/gemm.h"

namespace tandem::cuda {

class Products {
 public:
  /// For the current device. Weights are known by their address: they live as long as it does. most_elements:
  /// rows × columns of what is multiplied with one input; larger matrices are unpacked in panels.
  /// `deterministic`: a token's bits don't depend on how many others there are, but on whether it is a
  /// prompt's.
  explicit Products(int64_t most_elements, bool deterministic = false);

  /// Device memory that a Products takes at most, cuBLASLt's workspace included.
  static size_t bytes_of(int64_t most_elements, int n_multiprocessors);
  size_t bytes() const;

  /// The form of activations that n_tokens of them shall have to be multiplied with the matrix.
  ActForm form_of(const DeviceMatrix& matrix, int64_t n_tokens) const;

  /// The road of n_tokens in that form through these parts. `prompt`, here and below: they are a prompt's,
  /// which counts where it is deterministic.
  Road road_of(std::span<const GemvOperand> parts, ActForm form, int64_t n_tokens, bool prompt = false) const;

  /// Whether n_tokens of gate and up in that form, on their road, can go to `out` as options.records.
  bool writes_records(std::span<const GemvOperand> parts, ActForm form, int64_t n_tokens,
                      const CudaActivations& out, bool prompt = false) const;

  /// As gemv(), on that road; returns it. Parts have the same roads. Experts, factor, accumulation and peers
  /// are for gemv, records where writes_records() says so.
  Road multiply(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
                const GemvOptions& options, cudaStream_t stream, bool prompt = false);

  /// Unpacks these matrices' weights ahead of the product of n_tokens that wants them next, where that goes
  /// by the third road and they fit: while other ranks' sums are awaited. With them `later`'s, which the
  /// product behind that one wants, where there is room for these too.
  void prepare(std::span<const Matrix* const> weights, std::span<const Matrix* const> later, int64_t n_tokens,
               cudaStream_t stream, bool prompt = false);
  /// No weights stand unpacked any more: a recorded step, which doesn't ask whether they do, comes or went.
  void forget() { ready_.clear(); }
  /// Whether there is the third road for a format.
  bool has_unpacked(TensorType type) const {
    return blas_ != nullptr || (gemm_ != nullptr && unpacked_bytes(type) == 2);
  }

 private:
  void multiply_batch(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
                      GemvOptions options, cudaStream_t stream);
  void multiply_unpacked(std::span<const GemvOperand> parts, const CudaActivations& x, int64_t n_tokens,
                         const GemvOptions& options, cudaStream_t stream);
  static GemmPart gemm_part(const GemvOperand& part, const std::byte* w, Range rows, int64_t first_token,
                            bool raw);
  void multiply_own(std::span<const GemmPart> parts, Epilogue gate, const CudaActivations& x, Range tokens,
                    bool raw, cudaStream_t stream);
  void multiply_blas(const GemvOperand& part, const std::byte* w, Range rows, const CudaActivations& x,
                     Range tokens, cudaStream_t stream);
  void multiply_panels(const GemvOperand& part, const CudaActivations& x, Range tokens, bool own, bool raw,
                       cudaStream_t stream);
  bool takes_own(std::span<const GemvOperand> parts, ActForm form, int64_t n_tokens,
                 const GemvOptions& options) const;
  static void finish(std::span<const GemvOperand> parts, const CudaActivations& x, Range tokens,
                     const GemvOptions& options, cudaStream_t stream);
  bool add_unpacked(std::span<const Matrix* const> weights, int64_t n_tokens, bool prompt,
                    std::vector<const CudaMatrix*>& to) const;
  bool fit(std::span<const CudaMatrix* const> weights) const;
  const std::byte* standing(std::span<const CudaMatrix* const> weights) const;
  const std::byte* unpack_all(std::span<const CudaMatrix* const> weights, cudaStream_t stream);

  bool deterministic_;
  size_t capacity_;             ///< bytes of unpacked_
  std::unique_ptr<Gemm> gemm_;  ///< null: no Hopper GPU
  std::unique_ptr<Blas> blas_;  ///< null: not to be had, or deterministic
  BatchScratch batch_;
  DeviceBuffer<std::byte> unpacked_;
  std::vector<const CudaMatrix*> ready_;  ///< whose rows stand in unpacked_, one behind another
};

}  // namespace tandem::cuda
