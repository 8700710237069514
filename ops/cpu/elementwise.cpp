#include "ops/cpu/elementwise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>

#include "ops/core/check.h"
#include "ops/core/head_mix.h"
#include "ops/cpu/kernels/row_kernels.h"

namespace tandem {

void apply_gate(Gate gate, const float* g, const float* u, int64_t n, float* out, Isa isa) {
  const RowKernels& kernels = row_kernels(isa);
  (gate == Gate::swiglu ? kernels.swiglu : kernels.geglu)(g, u, n, out);
}

void scale_row(float* x, int64_t n, float factor, Isa isa) {
  row_kernels(isa).scale(x, n, factor);
}

void soft_cap_row(float* x, int64_t n, float cap, Isa isa) {
  row_kernels(isa).soft_cap(x, n, cap);
}

void add_row(float* x, const float* bias, int64_t n, Isa isa) {
  row_kernels(isa).add(x, bias, n);
}

void add_scaled_row(float* out, const float* x, int64_t n, float factor, Isa isa) {
  row_kernels(isa).add_scaled(out, x, n, factor);
}

void mix_heads(float* x, int64_t n, int width, float factor, Isa isa) {
  require(std::has_single_bit(static_cast<unsigned>(width)) && width <= kMixMost && n % width == 0,
          "mix_heads", n, width);
  row_kernels(isa).mix(x, n, width, factor);
}

namespace {

/// x becomes e^(x - max); returns the sum in index order.
double exponentials(float* x, int64_t n, Isa isa) {
  const float max = *std::max_element(x, x + n);
  row_kernels(isa).exp_minus(x, n, max);
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  return sum;
}

}  // namespace

void softmax_row(float* x, int64_t n, Isa isa) {
  if (n <= 0) return;
  const double sum = exponentials(x, n, isa);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(static_cast<double>(x[i]) / sum);
}

bool route(const RouterRule& rule, const float* logits, int32_t* experts, float* weights, Isa isa) {
  const int n = rule.n_experts;
  require(rule.n_used >= 1 && rule.n_used <= n && n <= kMaxExperts, "a router's sizes", rule.n_used, n);
  if (!row_kernels(isa).all_finite(logits, n)) return false;
  std::array<int32_t, kMaxExperts> order{};
  for (int32_t i = 0; i < n; ++i) order[static_cast<size_t>(i)] = i;
  std::partial_sort(order.begin(), order.begin() + rule.n_used, order.begin() + n, [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  // The chosen alone where their weights shall sum to one, else all: in an order that the choice doesn't
  // change.
  std::array<float, kMaxExperts> values{};
  std::copy_n(order.begin(), rule.n_used, experts);
  for (int i = 0; i < n; ++i) values[static_cast<size_t>(i)] = logits[order[static_cast<size_t>(i)]];
  const int n_summed = rule.normalize ? rule.n_used : n;
  if (!rule.normalize) std::sort(values.begin() + rule.n_used, values.begin() + n, std::greater<>());
  const double sum = exponentials(values.data(), n_summed, isa);
  for (size_t i = 0; i < static_cast<size_t>(rule.n_used); ++i) {
    weights[i] = static_cast<float>(static_cast<double>(values[i]) / sum) * rule.scale;
  }
  return true;
}

}  // namespace tandem
