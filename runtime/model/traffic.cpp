// What a step must read of the weights: the ground of rooflines.
#include <cmath>
#include <initializer_list>

#include "runtime/model/model.h"

namespace tandem {
namespace {

double bytes_of(const std::unique_ptr<Matrix>& matrix) {
  return matrix ? static_cast<double>(matrix->bytes()) : 0.0;
}
double bytes_of(const std::unique_ptr<Vector>& vector) {
  return vector ? static_cast<double>(vector->size()) * sizeof(float) : 0.0;
}
double bytes_of(const std::vector<std::unique_ptr<Matrix>>& experts) {
  double sum = 0.0;
  for (const auto& matrix : experts) sum += bytes_of(matrix);
  return sum;
}

double dense_bytes(const LayerWeights& layer) {
  double sum = 0.0;
  for (const auto* matrix :
       {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down, &layer.router})
    sum += bytes_of(*matrix);
  for (const auto* vector :
       {&layer.attention_norm, &layer.ffn_norm, &layer.attention_post_norm, &layer.ffn_post_norm,
        &layer.q_norm, &layer.k_norm, &layer.q_bias, &layer.k_bias, &layer.v_bias})
    sum += bytes_of(*vector);
  return sum;
}

/// The share of a layer's experts that n_tokens tokens choose.
double chosen_share(const ModelConfig& config, int64_t n_tokens) {
  if (config.n_experts == 0) return 0.0;
  const double one = static_cast<double>(config.n_experts_used) / static_cast<double>(config.n_experts);
  return 1.0 - std::pow(1.0 - one, static_cast<double>(n_tokens));
}

}  // namespace

double Model::bytes_read(int64_t n_tokens) const {
  const double rows = static_cast<double>(n_tokens) / static_cast<double>(config_.n_vocab);
  double sum = rows * bytes_of(weights_.embedding) + bytes_of(weights_.output_norm) +
               static_cast<double>(weights_.head().bytes());
  for (const LayerWeights& layer : weights_.layers) {
    sum += dense_bytes(layer);
    sum += chosen_share(config_, n_tokens) *
           (bytes_of(layer.gates) + bytes_of(layer.ups) + bytes_of(layer.downs));
  }
  return sum;
}

}  // namespace tandem
