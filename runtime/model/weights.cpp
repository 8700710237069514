#include "runtime/model/weights.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <utility>

#include "ops/core/check.h"
#include "ops/core/error.h"
#include "ops/quant/formats.h"
#include "runtime/model/key_balance.h"

namespace tandem {
namespace {

constexpr uint64_t kStageBytes = 32u << 20;  // of each of the two buffers that a node's ranks read into
constexpr int64_t kPackRows = 16;            // rows that one thread packs at a time: a panel
constexpr int kMostReaders = 8;
constexpr size_t kParallelReadBytes = 4u << 20;  // less is read by one thread

[[noreturn]] void bad(const GgufFile& file, const std::string& what) {
  throw Error(ExitCode::bad_data, fmt::format("{}: {}", file.path(), what));
}

/// Where a tensor's bytes go: matrices (one, or one an expert), or floats.
struct Target {
  const GgufTensor* tensor = nullptr;
  TensorShard shard;
  std::vector<Matrix*> matrices;
  std::vector<float>* floats = nullptr;
};

/// A vector that becomes the backend's once its floats are read.
struct PendingVector {
  std::unique_ptr<Vector>* destination;
  std::unique_ptr<std::vector<float>> floats;
};

/// A layer's norms of queries and keys.
struct HeadNorms {
  std::vector<float>* q;
  std::vector<float>* k;
};

/// Whole rows of one matrix of a target, contiguous in the file.
struct Piece {
  size_t target = 0;
  int64_t matrix = 0;
  Range rows;
  uint64_t offset = 0;
  uint64_t n_bytes = 0;
};

/// Pieces that are read in one go: neighbours in one file.
struct Batch {
  int file_index = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
  std::vector<Piece> pieces;
};

/// Names every tensor that the model needs, checks it and makes the backend's matrix for it.
class Declaration {
 public:
  Declaration(const GgufFile& file, const ModelConfig& config, const ShardPlan& plan, int rank,
              Backend& backend)
      : file_(file), config_(config), plan_(plan), rank_(rank), backend_(backend) {}

  ModelWeights declare();
  std::vector<Target> targets;
  std::vector<PendingVector> vectors;
  std::vector<HeadNorms> head_norms;  // a layer each, or none

 private:
  const GgufTensor& need(const std::string& name, std::vector<int64_t> shape) const {
    const GgufTensor* tensor = file_.find_tensor(name);
    if (tensor == nullptr) bad(file_, fmt::format("tensor {} is missing", name));
    if (tensor->shape != shape) {
      bad(file_, fmt::format("tensor {} has shape [{}], expected [{}]", name, fmt::join(tensor->shape, ", "),
                             fmt::join(shape, ", ")));
    }
    if (!type_info(tensor->type).computable) {
      bad(file_, fmt::format("tensor {} has format {}, which tandem has no kernels for", name,
                             type_info(tensor->type).name));
    }
    return *tensor;
  }

  std::unique_ptr<Matrix> matrix(const std::string& name, int64_t n_cols, int64_t n_rows,
                                 InputPrecision precision = InputPrecision::normal) {
    const GgufTensor& tensor = need(name, {n_cols, n_rows});
    const TensorShard shard = plan_.shard(tensor, rank_);
    auto out = backend_.make_matrix(tensor.type, shard.rows.size(), shard.cols, precision);
    targets.push_back({&tensor, shard, {out.get()}, nullptr});
    return out;
  }

  std::vector<std::unique_ptr<Matrix>> experts(const std::string& name, int64_t n_cols, int64_t n_rows,
                                               InputPrecision precision = InputPrecision::normal) {
    const GgufTensor& tensor = need(name, {n_cols, n_rows, config_.n_experts});
    const TensorShard shard = plan_.shard(tensor, rank_);
    std::vector<std::unique_ptr<Matrix>> out;
    Target target{&tensor, shard, {}, nullptr};
    for (int64_t e = 0; e < config_.n_experts; ++e) {
      out.push_back(backend_.make_matrix(tensor.type, shard.rows.size(), shard.cols, precision));
      target.matrices.push_back(out.back().get());
    }
    targets.push_back(std::move(target));
    return out;
  }

  /// Where its floats will be.
  std::vector<float>* vector(const std::string& name, int64_t size, std::unique_ptr<Vector>& destination) {
    const GgufTensor& tensor = need(name, {size});
    vectors.push_back({&destination, std::make_unique<std::vector<float>>()});
    std::vector<float>* out = vectors.back().floats.get();
    floats(tensor, *out);
    return out;
  }

  void floats(const GgufTensor& tensor, std::vector<float>& out) {
    const TensorShard shard = plan_.shard(tensor, rank_);
    out.resize(static_cast<size_t>(shard.cols.size()));
    targets.push_back({&tensor, shard, {}, &out});
  }

  void declare_attention(const std::string& prefix, LayerWeights& layer);
  void declare_ffn(const std::string& prefix, LayerWeights& layer);

  const GgufFile& file_;
  const ModelConfig& config_;
  const ShardPlan& plan_;
  int rank_;
  Backend& backend_;
};

void Declaration::declare_attention(const std::string& prefix, LayerWeights& layer) {
  const int64_t q_width = config_.n_heads * config_.head_dim;
  const int64_t kv_width = config_.n_kv_heads * config_.head_dim;
  vector(prefix + "attn_norm.weight", config_.n_embd, layer.attention_norm);
  layer.q = matrix(prefix + "attn_q.weight", config_.n_embd, q_width);
  layer.k = matrix(prefix + "attn_k.weight", config_.n_embd, kv_width);
  layer.v = matrix(prefix + "attn_v.weight", config_.n_embd, kv_width);
  layer.o = matrix(prefix + "attn_output.weight", q_width, config_.n_embd);
  if (config_.qkv_bias) {
    vector(prefix + "attn_q.bias", q_width, layer.q_bias);
    vector(prefix + "attn_k.bias", kv_width, layer.k_bias);
    vector(prefix + "attn_v.bias", kv_width, layer.v_bias);
  }
  if (config_.qk_norm) {
    std::vector<float>* q = vector(prefix + "attn_q_norm.weight", config_.head_dim, layer.q_norm);
    std::vector<float>* k = vector(prefix + "attn_k_norm.weight", config_.head_dim, layer.k_norm);
    head_norms.push_back({q, k});
  }
  if (config_.post_norms)
    vector(prefix + "post_attention_norm.weight", config_.n_embd, layer.attention_post_norm);
}

void Declaration::declare_ffn(const std::string& prefix, LayerWeights& layer) {
  vector(prefix + "ffn_norm.weight", config_.n_embd, layer.ffn_norm);
  if (config_.post_norms) vector(prefix + "post_ffw_norm.weight", config_.n_embd, layer.ffn_post_norm);
  if (config_.n_experts == 0) {
    layer.gate = matrix(prefix + "ffn_gate.weight", config_.n_embd, config_.n_ff);
    layer.up = matrix(prefix + "ffn_up.weight", config_.n_embd, config_.n_ff);
    layer.down = matrix(prefix + "ffn_down.weight", config_.n_ff, config_.n_embd, InputPrecision::wide);
    return;
  }
  if (file_.find_tensor(prefix + "ffn_gate.0.weight") != nullptr) {
    bad(file_,
        "its experts are separate tensors, as files from before April 2024 have them; convert it again");
  }
  layer.router = matrix(prefix + "ffn_gate_inp.weight", config_.n_embd, config_.n_experts);
  layer.gates = experts(prefix + "ffn_gate_exps.weight", config_.n_embd, config_.n_ff);
  layer.ups = experts(prefix + "ffn_up_exps.weight", config_.n_embd, config_.n_ff);
  layer.downs = experts(prefix + "ffn_down_exps.weight", config_.n_ff, config_.n_embd, InputPrecision::wide);
}

ModelWeights Declaration::declare() {
  ModelWeights weights;
  weights.embedding = matrix("token_embd.weight", config_.n_embd, config_.n_vocab,
                             config_.tied_head ? InputPrecision::wide : InputPrecision::normal);
  if (!config_.tied_head) {
    weights.separate_head = matrix("output.weight", config_.n_embd, config_.n_vocab, InputPrecision::wide);
  }
  vector("output_norm.weight", config_.n_embd, weights.output_norm);
  // Sized first: the declarations keep pointers into the layers.
  weights.layers.resize(static_cast<size_t>(config_.n_layers));
  for (size_t l = 0; l < weights.layers.size(); ++l) {
    const std::string prefix = fmt::format("blk.{}.", l);
    declare_attention(prefix, weights.layers[l]);
    declare_ffn(prefix, weights.layers[l]);
  }
  if (const GgufTensor* factors = file_.find_tensor("rope_freqs.weight")) {
    floats(need("rope_freqs.weight", {config_.rope.n_rot / 2}), weights.rope_factors);
    (void)factors;
  }
  return weights;
}

/// Cuts the targets into batches of at most kStageBytes, in file order.
std::vector<Batch> plan_reads(const std::vector<Target>& targets) {
  std::vector<size_t> order(targets.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const GgufTensor& x = *targets[a].tensor;
    const GgufTensor& y = *targets[b].tensor;
    return std::pair(x.file_index, x.file_offset) < std::pair(y.file_index, y.file_offset);
  });
  std::vector<Batch> batches;
  for (const size_t index : order) {
    const GgufTensor& tensor = *targets[index].tensor;
    const uint64_t row = static_cast<uint64_t>(row_bytes(tensor.type, tensor.n_cols()));
    const int64_t n_matrices = static_cast<int64_t>(std::max<size_t>(1, targets[index].matrices.size()));
    const int64_t n_rows = tensor.n_rows() / n_matrices;
    for (int64_t m = 0; m < n_matrices; ++m) {
      int64_t at = 0;
      while (at < n_rows) {
        const uint64_t offset = tensor.file_offset + static_cast<uint64_t>(m * n_rows + at) * row;
        const bool joins = !batches.empty() && batches.back().file_index == tensor.file_index &&
                           offset - batches.back().begin + row <= kStageBytes;
        if (!joins) batches.push_back({tensor.file_index, offset, offset, {}});
        Batch& batch = batches.back();
        const uint64_t room = kStageBytes - (offset - batch.begin);
        int64_t take =
            std::min<int64_t>(n_rows - at, static_cast<int64_t>(std::max<uint64_t>(1, room / row)));
        if (at + take < n_rows && take >= kPackRows) take = round_down(take, kPackRows);
        batch.pieces.push_back({index, m, {at, at + take}, offset, static_cast<uint64_t>(take) * row});
        batch.end = offset + static_cast<uint64_t>(take) * row;
        at += take;
      }
    }
  }
  return batches;
}

/// An open file for positioned reads.
class InputFile {
 public:
  explicit InputFile(const std::string& path) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw Error(ExitCode::io, fmt::format("{}: {}", path_, std::strerror(errno)));
  }
  InputFile(InputFile&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  InputFile& operator=(InputFile&&) = delete;
  ~InputFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  void read(uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
      const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0)
        throw Error(ExitCode::io, fmt::format("{}: {} at byte {}", path_, std::strerror(errno), offset));
      if (n == 0)
        throw Error(ExitCode::io, fmt::format("{}: ends at byte {}, it was longer before", path_, offset));
      offset += static_cast<uint64_t>(n);
      out = out.subspan(static_cast<size_t>(n));
    }
  }

 private:
  std::string path_;
  int fd_;
};

/// Threads that read a batch's part: more where this process may use many cores, as beside a GPU.
int reader_count() {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0) return 1;
  return std::clamp(CPU_COUNT(&cpus) / 2, 1, kMostReaders);
}

/// Fills `out` from `offset` on with `n_readers` threads, a contiguous part each.
void read_parallel(const InputFile& file, uint64_t offset, std::span<std::byte> out, int n_readers) {
  if (n_readers <= 1 || out.size() < kParallelReadBytes) {
    file.read(offset, out);
    return;
  }
  std::vector<std::future<void>> parts;
  const size_t n = out.size();
  const auto readers = static_cast<size_t>(n_readers);
  for (size_t r = 0; r < readers; ++r) {
    const size_t begin = n * r / readers;
    const size_t end = n * (r + 1) / readers;
    parts.push_back(std::async(std::launch::async, [&file, offset, out, begin, end] {
      file.read(offset + begin, out.subspan(begin, end - begin));
    }));
  }
  for (std::future<void>& part : parts) part.get();  // the first failure is thrown when all have ended
}

/// Gives the rows of a staged piece that belong to this rank to their matrix, a panel a task.
void pack_piece(const Target& target, const Piece& piece, const std::byte* bytes, Backend& backend) {
  const GgufTensor& tensor = *target.tensor;
  const size_t stride = static_cast<size_t>(row_bytes(tensor.type, tensor.n_cols()));
  if (target.floats != nullptr) {
    std::vector<float> row(static_cast<size_t>(tensor.n_cols()));
    dequantize(tensor.type, bytes, tensor.n_cols(), row.data());
    std::copy_n(row.begin() + target.shard.cols.begin, target.shard.cols.size(), target.floats->begin());
    return;
  }
  const Range rows = intersect(piece.rows, target.shard.rows);
  if (rows.empty() || target.shard.cols.empty()) return;
  struct Work {
    Matrix* matrix;
    const std::byte* first_row;  // of local row `local.begin`
    size_t stride;
    Range local;
  } work{target.matrices[static_cast<size_t>(piece.matrix)],
         bytes + static_cast<size_t>(rows.begin - piece.rows.begin) * stride,
         stride,
         {rows.begin - target.shard.rows.begin, rows.end - target.shard.rows.begin}};
  const int64_t first_panel = work.local.begin / kPackRows;
  const int64_t n_panels = ceil_div(work.local.end, kPackRows) - first_panel;
  struct Context {
    const Work* work;
    int64_t first_panel;
  } context{&work, first_panel};
  backend.for_each_piece(
      n_panels, 1,
      [](void* raw, Range panels) {
        const Context& c = *static_cast<const Context*>(raw);
        const Range mine =
            intersect({(c.first_panel + panels.begin) * kPackRows, (c.first_panel + panels.end) * kPackRows},
                      c.work->local);
        c.work->matrix->put_rows(
            mine.begin, mine.size(),
            c.work->first_row + static_cast<size_t>(mine.begin - c.work->local.begin) * c.work->stride,
            c.work->stride);
      },
      &context);
}

/// The part of a batch that one rank of the node reads.
Range my_part(const Batch& batch, const Communicator& communicator) {
  const auto n_bytes = static_cast<int64_t>(batch.end - batch.begin);
  return {n_bytes * communicator.node_rank() / communicator.node_size(),
          n_bytes * (communicator.node_rank() + 1) / communicator.node_size()};
}

}  // namespace

ModelWeights load_weights(const GgufFile& file, const ModelConfig& config, const ShardPlan& plan,
                          CacheType cache_type, Communicator& communicator, Backend& backend,
                          LoadStats& stats, const LoadProgress& progress) {
  const auto start = std::chrono::steady_clock::now();
  Declaration declaration(file, config, plan, communicator.rank(), backend);
  ModelWeights weights = declaration.declare();
  const std::vector<Batch> batches = plan_reads(declaration.targets);
  std::vector<InputFile> files;
  for (const std::string& path : file.paths()) files.emplace_back(path);

  uint64_t stage_bytes = 0;
  for (const Batch& batch : batches) {
    stage_bytes = std::max(stage_bytes, batch.end - batch.begin);
    stats.bytes_total += batch.end - batch.begin;
  }
  // Two buffers: while the node's ranks pack one batch, each reads its part of the next into the other.
  std::array<std::unique_ptr<NodeBuffer>, 2> stages;
  for (auto& stage : stages) stage = communicator.node_buffer(stage_bytes);
  const std::array staging = {stages[0]->bytes(), stages[1]->bytes()};
  backend.open_staging(staging);
  const int n_readers = reader_count();
  const auto read_part = [&](size_t index) {
    const Batch& batch = batches[index];
    const Range part = my_part(batch, communicator);
    read_parallel(
        files[static_cast<size_t>(batch.file_index)], batch.begin + static_cast<uint64_t>(part.begin),
        staging[index % 2].subspan(static_cast<size_t>(part.begin), static_cast<size_t>(part.size())),
        n_readers);
    stats.bytes_read += static_cast<uint64_t>(part.size());
    stats.n_reads += part.empty() ? 0 : 1;
  };
  uint64_t done = 0;
  if (!batches.empty()) read_part(0);
  for (size_t i = 0; i < batches.size(); ++i) {
    backend.settle_rows();
    communicator.node_barrier();  // batch i is in its buffer, and everyone is done with the other buffer
    const std::byte* stage = staging[i % 2].data();
    for (const Piece& piece : batches[i].pieces) {
      pack_piece(declaration.targets[piece.target], piece, stage + (piece.offset - batches[i].begin),
                 backend);
    }
    if (i + 1 < batches.size()) read_part(i + 1);  // while a GPU takes this one
    done += batches[i].end - batches[i].begin;
    if (progress) progress(done, stats.bytes_total);
  }
  backend.settle_rows();
  backend.close_staging();
  communicator.node_barrier();  // nobody frees a buffer that another still packs from
  if (is_quantised(cache_type)) {
    for (size_t l = 0; l < declaration.head_norms.size(); ++l) {
      const HeadNorms& norms = declaration.head_norms[l];
      const RopeConfig& rope = config.rope_of(static_cast<int64_t>(l));
      balance_keys(*norms.q, *norms.k, rope.style, rope.n_rot);
    }
  }
  for (PendingVector& pending : declaration.vectors)
    *pending.destination = backend.make_vector(*pending.floats);
  stats.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return weights;
}

}  // namespace tandem
