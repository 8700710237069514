#include "runtime/model/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "comm/exchange.h"
#include "ops/core/error.h"
#include "ops/cpu/kv_cache.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/workspace.h"
#include "ops/cuda/bulk_windows.h"
#include "ops/cuda/workspace.h"

namespace tandem {
namespace {

constexpr int64_t kMostPages = (int64_t{1} << 27) / kPageTokens;  // what -c may ask for
constexpr int64_t kMostCachePages = 1 << 26;  // of all sequences: far more than fit, and no sum overflows

/// The name behind "blk.N.", or the whole name.
std::string_view role_of(std::string_view name) {
  if (!name.starts_with("blk.")) return name;
  const size_t dot = name.find('.', 4);
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

bool is_one_of(std::string_view role, std::initializer_list<std::string_view> roles) {
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

bool is_qkv(std::string_view role) {
  return is_one_of(role, {"attn_q.weight", "attn_k.weight", "attn_v.weight"});
}

/// What weights.cpp gives to make_matrix().
bool is_matrix(std::string_view role, const ModelConfig& config) {
  if (is_one_of(role, {"token_embd.weight", "attn_output.weight"}) || is_qkv(role)) return true;
  if (role == "output.weight") return !config.tied_head;
  if (config.n_experts == 0) return is_one_of(role, {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"});
  return is_one_of(
      role, {"ffn_gate_inp.weight", "ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"});
}

/// What weights.cpp gives to make_vector().
bool is_vector(std::string_view role, const ModelConfig& config) {
  if (is_one_of(role, {"attn_norm.weight", "ffn_norm.weight", "output_norm.weight"})) return true;
  if (is_one_of(role, {"attn_q.bias", "attn_k.bias", "attn_v.bias"})) return config.qkv_bias;
  if (is_one_of(role, {"attn_q_norm.weight", "attn_k_norm.weight"})) return config.qk_norm;
  return is_one_of(role, {"post_attention_norm.weight", "post_ffw_norm.weight"}) && config.post_norms;
}

/// Whether the matrix's input is kept with 15 bits.
bool is_wide(std::string_view role, const ModelConfig& config) {
  return is_one_of(role, {"ffn_down.weight", "ffn_down_exps.weight", "output.weight"}) ||
         (role == "token_embd.weight" && config.tied_head);
}

bool is_head(std::string_view role, const ModelConfig& config) {
  return role == (config.tied_head ? "token_embd.weight" : "output.weight");
}

/// The forms that a layer's buffers are asked for, collected from its matrices.
struct LayerForms {
  ActForms attention_input = ActForms{}.with(ActForm::f32);
  ActForms ffn_input = ActForms{}.with(ActForm::f32);
  ActForms attended = ActForms{}.with(ActForm::f32);
  ActForms hidden = ActForms{}.with(ActForm::f32);
};

size_t layer_of(std::string_view name) {
  size_t layer = 0;
  for (const char c : name.substr(4, name.find('.', 4) - 4))
    layer = 10 * layer + static_cast<size_t>(c - '0');
  return layer;
}

/// The largest n from 0 to `most` for which `fits` holds; it must hold for all below one that it holds for.
template <class Fits>
int64_t largest_that(int64_t most, Fits&& fits) {
  int64_t low = 0;
  int64_t high = most + 1;  // doesn't fit, or is not asked for
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

}  // namespace

MemoryPlan::MemoryPlan(const GgufFile& file, const ModelConfig& config, const SplitWeights& split)
    : file_(file), config_(config), shards_(file, config, split) {
  for (const GgufTensor& tensor : file.tensors()) {
    if (!is_matrix(role_of(tensor.name), config) || type_info(tensor.type).computable) continue;
    throw Error(ExitCode::bad_data,
                fmt::format("{}: tensor {} has format {}, which tandem has no kernels for", file.path(),
                            tensor.name, type_info(tensor.type).name));
  }
  for (const PlanBackend backend : {PlanBackend::cpu, PlanBackend::cuda}) {
    for (int r = 0; r < n_ranks(); ++r)
      weight_bytes_[static_cast<size_t>(backend)].push_back(weight_bytes(r, backend));
  }
}

int64_t MemoryPlan::weight_bytes(int r, PlanBackend backend) const {
  size_t sum = 0;
  for (const GgufTensor& tensor : file_.tensors()) {
    const std::string_view role = role_of(tensor.name);
    const TensorShard shard = shards_.shard(tensor, r);
    if (is_vector(role, config_)) sum += static_cast<size_t>(shard.cols.size()) * sizeof(float);
    if (!is_matrix(role, config_)) continue;
    const size_t n_matrices = tensor.shape.size() == 3 ? static_cast<size_t>(tensor.shape[2]) : 1;
    sum += n_matrices * (backend == PlanBackend::cpu
                             ? PackedMatrix::bytes_of(tensor.type, shard.rows.size(), shard.cols)
                             : cuda::matrix_bytes_of(tensor.type, shard.rows.size(), shard.cols));
  }
  return static_cast<int64_t>(sum);
}

int64_t MemoryPlan::cpu_workspace(int r, const BackendShape& shape) const {
  std::vector<LayerForms> layers(static_cast<size_t>(config_.n_layers));
  CpuStepForms forms;
  forms.head = forms.head.with(ActForm::f32);
  for (const GgufTensor& tensor : file_.tensors()) {
    const std::string_view role = role_of(tensor.name);
    if (!is_matrix(role, config_) || shards_.shard(tensor, r).empty()) continue;
    const ActForm form = activation_form(tensor.type, is_wide(role, config_));
    if (is_head(role, config_)) forms.head = forms.head.with(form);
    if (!tensor.name.starts_with("blk.") || layer_of(tensor.name) >= layers.size()) continue;
    LayerForms& layer = layers[layer_of(tensor.name)];
    ActForms& asked = is_qkv(role)                                                   ? layer.attention_input
                      : role == "attn_output.weight"                                 ? layer.attended
                      : is_one_of(role, {"ffn_down.weight", "ffn_down_exps.weight"}) ? layer.hidden
                                                                                     : layer.ffn_input;
    asked = asked.with(form);
  }
  for (const LayerForms& layer : layers) {
    forms.normed.push_back(layer.attention_input);
    forms.normed.push_back(layer.ffn_input);
    forms.attended.push_back(layer.attended);
    forms.hidden.push_back(layer.hidden);
  }
  return static_cast<int64_t>(cpu_workspace_bytes(shape, forms, shape.max_tokens, shape.max_outputs));
}

RankMemory MemoryPlan::rank(int r, const PlanRequest& request) const {
  ModelCapacity capacity;
  capacity.max_tokens = request.batch_tokens + (request.n_sequences > 1 ? request.n_sequences : 0);
  capacity.n_pages = request.n_sequences * ceil_div(request.context_tokens, kPageTokens);
  capacity.cache_type = request.cache_type;
  BackendShape shape = backend_shape(config_, shards_.rank(r), capacity);
  shape.max_outputs = request.n_sequences;
  RankMemory memory;
  memory.weight_bytes = weight_bytes_[static_cast<size_t>(request.backend)][static_cast<size_t>(r)];
  if (request.backend == PlanBackend::cuda) {
    shape.max_tokens = request.batch_tokens + request.n_sequences;
    memory.cache_bytes = static_cast<int64_t>(cuda::cache_bytes_of(shape));
    memory.workspace_bytes =
        static_cast<int64_t>(cuda::workspace_bytes_of(shape, request.n_multiprocessors) +
                             cuda::step_bytes_of(shape, config_.rope.n_rot / 2, config_.n_ropes()));
    if (n_ranks() > 1) {
      memory.exchange_bytes =
          cuda::bulk_window(n_ranks(), config_.n_embd, config_.n_vocab, shape.max_tokens).end();
    }
    return memory;
  }
  const KvLayerShape row{static_cast<int32_t>(shape.n_kv_heads), static_cast<int32_t>(shape.head_dim),
                         static_cast<int32_t>(shape.head_dim)};
  const std::vector<KvLayerShape> rows(static_cast<size_t>(shape.n_layers), row);
  memory.cache_bytes =
      static_cast<int64_t>(KvCache::bytes_per_page(rows, request.cache_type)) * shape.n_pages;
  memory.workspace_bytes = cpu_workspace(r, shape);
  memory.exchange_bytes = static_cast<int64_t>(
      SlotExchange::memory_bytes(cpu_contribution_bytes(shape, shape.max_tokens), n_ranks()) /
      static_cast<size_t>(n_ranks()));
  return memory;
}

int64_t MemoryPlan::largest_total(const PlanRequest& request) const {
  int64_t most = 0;
  for (int r = 0; r < n_ranks(); ++r) most = std::max(most, rank(r, request).total());
  return most;
}

int64_t MemoryPlan::largest_context(PlanRequest request, int64_t usable_bytes) const {
  const int64_t most = std::min(kMostPages, kMostCachePages / std::max<int64_t>(1, request.n_sequences));
  return kPageTokens * largest_that(most, [&](int64_t n_pages) {
           request.context_tokens = n_pages * kPageTokens;
           return largest_total(request) <= usable_bytes;
         });
}

int64_t MemoryPlan::largest_sequences(PlanRequest request, int64_t usable_bytes) const {
  // Of long contexts fewer: no cache has more pages than as many sequences of one.
  const int64_t pages_each = std::max<int64_t>(1, ceil_div(request.context_tokens, kPageTokens));
  return largest_that(std::max<int64_t>(1, kMostCachePages / pages_each), [&](int64_t n) {
    request.n_sequences = n;
    return largest_total(request) <= usable_bytes;
  });
}

}  // namespace tandem
