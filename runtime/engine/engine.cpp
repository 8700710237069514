#include "runtime/engine/engine.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "ops/core/check.h"

namespace tandem {
namespace {

constexpr size_t kPlanInline = 4096;  // bytes of a plan's first broadcast, length included

void broadcast_plan(Communicator& communicator, const StepPlan& plan) {
  if (communicator.size() == 1) return;
  const std::vector<std::byte> bytes = plan.serialize();
  std::array<std::byte, kPlanInline> first{};
  const uint64_t n_bytes = bytes.size();
  const size_t n_inline = std::min(bytes.size(), kPlanInline - sizeof(n_bytes));
  std::memcpy(first.data(), &n_bytes, sizeof(n_bytes));
  std::memcpy(first.data() + sizeof(n_bytes), bytes.data(), n_inline);
  communicator.broadcast(first, 0);
  if (n_inline == bytes.size()) return;
  std::vector<std::byte> rest(bytes.begin() + static_cast<int64_t>(n_inline), bytes.end());
  communicator.broadcast(rest, 0);
}

StepPlan receive_plan(Communicator& communicator) {
  std::array<std::byte, kPlanInline> first{};
  communicator.broadcast(first, 0);
  uint64_t n_bytes = 0;
  std::memcpy(&n_bytes, first.data(), sizeof(n_bytes));
  const size_t n_inline = std::min<size_t>(n_bytes, kPlanInline - sizeof(n_bytes));
  std::vector<std::byte> bytes(n_bytes);
  std::memcpy(bytes.data(), first.data() + sizeof(n_bytes), n_inline);
  if (n_inline < n_bytes) communicator.broadcast(std::span(bytes).subspan(n_inline), 0);
  return StepPlan::deserialize(bytes);
}

SchedulerLimits limits_of(Model& model, const EngineOptions& options) {
  SchedulerLimits limits;
  limits.n_pages = model.capacity().n_pages;
  limits.step_tokens = model.capacity().max_tokens;
  limits.prompt_tokens = options.batch_tokens;
  limits.context_tokens = options.context_tokens;
  limits.max_sequences = options.max_sequences;
  limits.max_waiting = options.max_waiting;
  limits.n_vocab = model.config().n_vocab;
  limits.lookahead = options.lookahead < 0 ? model.backend().lookahead() : options.lookahead;
  limits.share_prefixes = options.share_prefixes != PrefixSharing::off;
  if (options.share_prefixes == PrefixSharing::where_exact) {
    const Exactness exactness = model.backend().exactness();
    limits.share_prefixes = exactness != Exactness::none;
    limits.share_generated = exactness == Exactness::all;
  }
  return limits;
}

}  // namespace

Engine::Engine(Model& model, const EngineOptions& options)
    : communicator_(model.communicator()),
      options_(options),
      executor_(model, options.max_sequences, options.context_tokens),
      verifier_(model.communicator(), options.verify_every),
      scheduler_(limits_of(model, options)) {}

RequestId Engine::submit(GenerationRequest request) {
  return scheduler_.submit(std::move(request));
}

RequestId Engine::submit(EvaluationRequest request) {
  return scheduler_.submit(std::move(request));
}

bool Engine::step() {
  require(communicator_.rank() == 0, "only rank 0 plans steps");
  if (!busy()) return false;
  const StepPlan plan = scheduler_.plan();
  broadcast_plan(communicator_, plan);
  if (!plan.sequences.empty()) {
    executor_.launch(plan, [&](size_t part, int64_t position, std::span<const float> logits) {
      scheduler_.take_logits(plan.step, part, position, logits);
    });
  }
  for (int i = 0; i < plan.n_collect; ++i) scheduler_.take(collect());
  return true;
}

StepResults Engine::collect() {
  StepResults results = executor_.collect();
  verifier_.note(results.step, results.tokens);
  return results;
}

int Engine::follow() {
  require(communicator_.rank() != 0, "rank 0 leads");
  while (true) {
    const StepPlan plan = receive_plan(communicator_);
    if (plan.kind == PlanKind::run && !plan.sequences.empty()) executor_.launch(plan);
    for (int i = 0; i < plan.n_collect; ++i) collect();
    if (plan.kind != PlanKind::shutdown) continue;
    verifier_.finish();
    return plan.exit_code;
  }
}

void Engine::shutdown(int exit_code) {
  StepPlan plan;
  plan.kind = PlanKind::shutdown;
  plan.exit_code = exit_code;
  plan.n_collect = static_cast<int32_t>(executor_.n_in_flight());  // nobody leaves while a step runs
  broadcast_plan(communicator_, plan);
  for (int i = 0; i < plan.n_collect; ++i) collect();
  verifier_.finish();
}

}  // namespace tandem
