#include "ops/cuda/road_timer.h"

#include <algorithm>

#include "ops/core/check.h"
#include "ops/cuda/activation_layout.h"
#include "ops/cuda/format_kernels.h"
#include "ops/cuda/graph.h"

namespace tandem::cuda {
namespace {

// Numbers of tokens at which roads are compared.
constexpr std::array<int32_t, 3> kGemvOrBatch = {2, 3, 4};
constexpr std::array<int32_t, 4> kGemvOrUnpacked = {8, 16, 32, 64};
constexpr std::array<int32_t, 5> kBatchOrUnpacked = {80, 96, 128, 192, 256};
constexpr int64_t kMostOutBytes = int64_t{32} << 20;
constexpr int kRuns = 3;

/// Roads by which any number of tokens takes this one.
Roads only(Road road) {
  constexpr int32_t kAll = 1 << 20;
  return road == Road::gemv ? Roads{kAll, kAll} : road == Road::batch ? Roads{0, kAll} : Roads{0, 0};
}

}  // namespace

RoadTimer::RoadTimer(Products& products, std::vector<std::vector<CudaMatrix*>> alike, ActForm form,
                     bool early)
    : products_(products), alike_(std::move(alike)), form_(form), early_(early) {
  require(!alike_.empty() && !alike_[0].empty(), "roads: nothing to measure");
  for (const CudaMatrix* part : alike_[0]) n_rows_ += part->n_rows();
  most_tokens_ =
      std::clamp<int64_t>(kMostOutBytes / (n_rows_ * 4), kGemvOrBatch.back(), kBatchOrUnpacked.back());
}

size_t RoadTimer::bytes() const {
  const int64_t n_segments = alike_[0][0]->n_segments();
  return static_cast<size_t>(
      most_tokens_ *
      (4 * n_rows_ + n_segments * (ActLayout::kF32Bytes + ActLayout::kQ15Bytes + ActLayout::kF16Bytes)));
}

bool RoadTimer::takes_halves() const {
  return unpacked_bytes(alike_[0][0]->type()) == 2;
}

/// Bytes that are finite, and neither zero nor one, in every form.
CudaActivations& RoadTimer::input(ActForm form) {
  auto& x = inputs_[static_cast<size_t>(form)];
  if (!x) {
    constexpr int kByte = 0x3c;
    x.emplace(most_tokens_, alike_[0][0]->cols(), form);
    check(cudaMemset(x->data(), kByte, static_cast<size_t>(most_tokens_ * x->token_bytes())));
    check(cudaDeviceSynchronize());
  }
  return *x;
}

/// `fills`: makes each one's input of floats before.
void RoadTimer::multiply_all(CudaActivations& x, bool fills, int64_t n_tokens) {
  const CudaActivations* rows = fills ? &input(ActForm::f32) : nullptr;  // whose records are floats
  for (const std::vector<CudaMatrix*>& product : alike_) {
    std::vector<GemvOperand> parts;
    float* out = out_.data();
    for (const CudaMatrix* weight : product) {
      parts.push_back({weight, nullptr, out, weight->n_rows()});
      out += most_tokens_ * weight->n_rows();
    }
    const bool gated = parts.size() == 2 && product[0]->type() == product[1]->type() &&
                       product[0]->n_rows() == product[1]->n_rows();
    products_.forget();
    bool early = early_ && &product != &alike_.front();
    if (fills) {
      x.fill(reinterpret_cast<const float*>(rows->data()), rows->token_bytes() / 4, n_tokens, nullptr,
             stream_.get(), early);
      early = early_;
    }
    products_.multiply(parts, x, n_tokens, {gated ? Epilogue::swiglu : Epilogue::none, early}, stream_.get());
  }
}

/// Of one product; the median of replays of a graph, so that the host's part doesn't count.
double RoadTimer::time_us(Road road, bool fills, int64_t n_tokens) {
  CudaActivations& x = input(road == Road::gemv ? form_ : takes_halves() ? ActForm::f16 : ActForm::f32);
  for (const std::vector<CudaMatrix*>& product : alike_) {
    for (CudaMatrix* part : product) part->set_roads(only(road));
  }
  Recording recording;
  const auto run = [&] {
    recording.run(stream_, [&] {
      multiply_all(x, fills, n_tokens);
      return 0U;
    });
  };
  run();  // loads kernels
  run();  // records
  const Event begin;
  const Event end;
  std::array<double, kRuns> times{};
  for (double& time : times) {
    begin.record(stream_);
    run();
    end.record(stream_);
    stream_.synchronize();
    time = Event::elapsed_us(begin, end) / static_cast<double>(alike_.size());
  }
  std::sort(times.begin(), times.end());
  return times[kRuns / 2];
}

int32_t RoadTimer::last_token(Road lower, Road upper, bool upper_fills, int32_t least, int32_t built_in,
                              std::span<const int32_t> n_tokens) {
  std::vector<RoadTimes> times;
  for (const int32_t n : n_tokens) {
    if (n <= most_tokens_) times.push_back({n, time_us(lower, false, n), time_us(upper, upper_fills, n)});
  }
  return last_on_lower_road(least, built_in, times);
}

Roads RoadTimer::measure(bool of_expert, bool behind_gate) {
  const Roads before = alike_[0][0]->roads();
  const bool batch = has_batch_kernel(alike_[0][0]->type());
  const bool unpacks = products_.has_unpacked(alike_[0][0]->type());
  out_ = DeviceBuffer<float>(static_cast<size_t>(most_tokens_ * n_rows_));
  // GEMV's gate·up rounds its rows itself, to the forms of GEMV alone.
  const bool fills = behind_gate && form_ != ActForm::f32;
  Roads roads = before;
  if (batch && !of_expert) {
    roads.gemv = last_token(Road::gemv, Road::batch, fills, 1, before.gemv, kGemvOrBatch);
  } else if (unpacks && !of_expert) {
    roads.gemv = last_token(Road::gemv, Road::unpacked, fills, kMaxGemvTokens, before.gemv, kGemvOrUnpacked);
  }
  if (batch && unpacks)
    roads.batch =
        last_token(Road::batch, Road::unpacked, false, Roads::kLeastBatch, before.batch, kBatchOrUnpacked);
  products_.forget();
  for (const std::vector<CudaMatrix*>& product : alike_) {
    for (CudaMatrix* part : product) part->set_roads(before);
  }
  return roads;
}

}  // namespace tandem::cuda
