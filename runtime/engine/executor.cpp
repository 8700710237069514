// Every rank's half of the engine: executes a plan. Nothing here may depend on the rank but which shard it
// computes.
#include <algorithm>
#include <cstring>

#include "comm/process.h"
#include "ops/core/check.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/sequence.h"

namespace tandem {
namespace {

constexpr int32_t kMaxSlots = 256;
constexpr size_t kPlanInline = 4096;  // bytes of a plan's first broadcast, length included
constexpr size_t kLogitsExchangeBytes = size_t{16}
                                        << 20;  // of one rank's contribution when all logits are gathered

int64_t largest_vocab_shard(const Model& model) {
  int64_t largest = 0;
  for (int r = 0; r < model.plan().n_ranks(); ++r)
    largest = std::max(largest, model.plan().rank(r).vocab.size());
  return largest;
}

}  // namespace

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

Engine::Engine(Model& model, const EngineOptions& options)
    : model_(model),
      communicator_(model.communicator()),
      options_(options),
      sampler_(model.communicator(), model.vocab(), largest_vocab_shard(model)),
      largest_shard_(largest_vocab_shard(model)),
      slots_(kMaxSlots) {
  for (auto page = static_cast<int32_t>(model.capacity().n_pages) - 1; page >= 0; --page)
    free_pages_.push_back(page);
  for (int32_t slot = kMaxSlots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

Engine::~Engine() = default;

int Engine::follow() {
  require(communicator_.rank() != 0, "rank 0 leads");
  while (true) {
    const StepPlan plan = receive_plan(communicator_);
    if (plan.kind == PlanKind::shutdown) return plan.exit_code;
    execute(plan);
  }
}

void Engine::shutdown(int exit_code) {
  StepPlan plan;
  plan.kind = PlanKind::shutdown;
  plan.exit_code = exit_code;
  broadcast_plan(communicator_, plan);
}

std::vector<int32_t> Engine::execute(const StepPlan& plan) {
  require(plan.step == next_step_, "ranks disagree on the step", plan.step, next_step_);
  ++next_step_;
  // Every rank's phase comes from the plan, for the line that says where a rank died.
  const bool decodes = std::all_of(plan.sequences.begin(), plan.sequences.end(),
                                   [](const PlanSequence& part) { return part.tokens.size() == 1; });
  note_phase(decodes ? "decode" : "prompt");
  for (const PlanAdmission& admission : plan.admissions) {
    slots_[static_cast<size_t>(admission.slot)] = {admission.sampling, admission.history};
  }
  std::vector<int32_t> tokens;
  std::vector<StepSequence> sequences;
  for (const PlanSequence& part : plan.sequences) {
    Slot& slot = slots_[static_cast<size_t>(part.slot)];
    sequences.push_back({static_cast<int64_t>(tokens.size()), static_cast<int64_t>(part.tokens.size()),
                         part.first_position, part.pages});
    slot.history.resize(static_cast<size_t>(part.first_position));
    slot.history.insert(slot.history.end(), part.tokens.begin(), part.tokens.end());
    tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
  }
  model_.forward({tokens, sequences});
  gather_logits(plan);
  return sample(plan);
}

/// Hands the logits of every token of the sequences that want them to rank 0, some rows at a time.
void Engine::gather_logits(const StepPlan& plan) {
  const auto row_bytes = static_cast<size_t>(largest_shard_) * sizeof(float);
  const auto rows_at_once = static_cast<int64_t>(std::max<size_t>(1, kLogitsExchangeBytes / row_bytes));
  std::vector<float> row(static_cast<size_t>(model_.config().n_vocab));
  int64_t first_token = 0;
  for (const PlanSequence& part : plan.sequences) {
    const auto n_tokens = static_cast<int64_t>(part.tokens.size());
    const Range tokens{first_token, first_token + n_tokens};
    first_token += n_tokens;
    if (part.logits_from < 0) continue;
    for (int64_t at = tokens.begin + part.logits_from; at < tokens.end; at += rows_at_once) {
      std::vector<int64_t> outputs;
      for (int64_t t = at; t < std::min(at + rows_at_once, tokens.end); ++t) outputs.push_back(t);
      const std::span<const float> local = model_.logits(outputs);
      std::byte* out = communicator_.contribution(outputs.size() * row_bytes);
      std::copy(local.begin(), local.end(), reinterpret_cast<float*>(out));
      const auto slots = communicator_.publish();
      if (communicator_.rank() != 0) continue;
      const auto owner = std::find_if(active_.begin(), active_.end(),
                                      [&](const auto& sequence) { return sequence->slot == part.slot; });
      for (size_t i = 0; i < outputs.size(); ++i) {
        for (int r = 0; r < communicator_.size(); ++r) {
          const Range vocab = model_.plan().rank(r).vocab;
          const auto* shard = reinterpret_cast<const float*>(slots[static_cast<size_t>(r)]);
          std::copy_n(shard + static_cast<int64_t>(i) * vocab.size(), vocab.size(),
                      row.begin() + vocab.begin);
        }
        (*owner)->on_logits(part.first_position + outputs[i] - tokens.begin, row);
      }
    }
  }
}

std::vector<int32_t> Engine::sample(const StepPlan& plan) {
  std::vector<int64_t> outputs;
  int64_t end = 0;
  for (const PlanSequence& part : plan.sequences) {
    end += static_cast<int64_t>(part.tokens.size());
    if (part.sample) outputs.push_back(end - 1);
  }
  latest_logprobs_.clear();
  if (outputs.empty()) return {};
  const std::span<const float> logits = model_.logits(outputs);
  const auto n_local = static_cast<size_t>(model_.vocab().size());
  std::vector<SampleRow> rows;
  for (const PlanSequence& part : plan.sequences) {
    if (!part.sample) continue;
    const Slot& slot = slots_[static_cast<size_t>(part.slot)];
    rows.push_back(
        {logits.subspan(rows.size() * n_local, n_local), &slot.sampling, slot.history, slot.history.size()});
  }
  std::vector<int32_t> tokens = sampler_.sample(rows);
  const bool wants_logprobs =
      std::any_of(rows.begin(), rows.end(), [](const SampleRow& row) { return row.params->n_logprobs >= 0; });
  if (wants_logprobs) latest_logprobs_ = sampler_.logprobs(rows, tokens);
  return tokens;
}

}  // namespace tandem
