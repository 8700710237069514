#include "runtime/engine/executor.h"

#include <algorithm>

#include "comm/process.h"
#include "ops/core/check.h"

namespace tandem {
namespace {

static_assert(kLatestToken == kLatestOfSlot);  // plans and steps name it alike

constexpr size_t kLogitsExchangeBytes = size_t{16}
                                        << 20;  // of one rank's contribution when all logits are gathered

int64_t largest_vocab_shard(const Model& model) {
  int64_t largest = 0;
  for (int r = 0; r < model.plan().n_ranks(); ++r)
    largest = std::max(largest, model.plan().rank(r).vocab.size());
  return largest;
}

}  // namespace

Executor::Executor(Model& model, int64_t n_slots, int64_t context_tokens)
    : model_(model),
      communicator_(model.communicator()),
      sampler_(model.communicator(), model.vocab(), largest_vocab_shard(model)),
      largest_shard_(largest_vocab_shard(model)),
      slots_(static_cast<size_t>(n_slots)),
      device_(model.backend().token_sampler()),
      context_tokens_(context_tokens) {
  if (device_ == nullptr) return;
  SamplingShape shape;
  for (int r = 0; r < model.plan().n_ranks(); ++r) shape.vocab.push_back(model.plan().rank(r).vocab);
  shape.n_slots = n_slots;
  device_->open_sampling(shape);
}

void Executor::admit(const PlanAdmission& admission) {
  Slot& slot = slots_[static_cast<size_t>(admission.slot)];
  slot = {admission.sampling, admission.history, -1, false, n_admitted_++, std::nullopt};
  if (device_ == nullptr) return;
  const std::optional<DeviceChain> chain =
      device_chain(admission.sampling, communicator_.size(), context_tokens_);
  if (!chain) return;
  slot.road = chain->chain.road;
  device_->admit(admission.slot, chain->chain, chain->bias, admission.history);
}

/// Whether every token that the plan samples can be chosen on the device.
bool Executor::device_samples(const StepPlan& plan) const {
  return device_ != nullptr &&
         std::all_of(plan.sequences.begin(), plan.sequences.end(), [&](const PlanSequence& part) {
           return !part.sample || slots_[static_cast<size_t>(part.slot)].road.has_value();
         });
}

/// Fetches the tokens of a step that the device has; they join the histories that wait for them.
void Executor::take_from_device(InFlight& step) {
  if (step.awaited.empty()) return;
  step.results.tokens = device_->collect();
  require(step.results.tokens.size() == step.awaited.size(), "the device sampled another number of tokens",
          step.results.tokens.size(), step.awaited.size());
  for (size_t i = 0; i < step.awaited.size(); ++i) {
    const Awaited& awaited = step.awaited[i];
    Slot& slot = slots_[static_cast<size_t>(awaited.slot)];
    if (slot.admission != awaited.admission) continue;  // another sequence's by now
    if (awaited.position < slot.history.size()) {
      slot.history[awaited.position] = step.results.tokens[i];
    } else {
      slot.latest = step.results.tokens[i];
    }
  }
  step.awaited.clear();
}

/// Everything launched is known to the host.
void Executor::settle() {
  for (InFlight& step : in_flight_) take_from_device(step);
}

void Executor::launch(const StepPlan& plan, const LogitsSink& sink) {
  require(plan.step == n_launched_, "ranks disagree on the step", plan.step, n_launched_);
  ++n_launched_;
  // Every rank's phase comes from the plan, for the line that says where a rank died.
  const bool decodes = std::all_of(plan.sequences.begin(), plan.sequences.end(),
                                   [](const PlanSequence& part) { return part.tokens.size() == 1; });
  note_phase(decodes ? "decode" : "prompt");
  for (const PlanAdmission& admission : plan.admissions) admit(admission);
  const bool on_device = device_samples(plan);
  if (!on_device) settle();
  std::vector<int32_t> tokens;
  std::vector<StepSequence> sequences;
  for (const PlanSequence& part : plan.sequences) {
    Slot& slot = slots_[static_cast<size_t>(part.slot)];
    sequences.push_back({static_cast<int64_t>(tokens.size()), static_cast<int64_t>(part.tokens.size()),
                         part.first_position, part.pages, part.slot, part.n_prompt});
    slot.history.resize(static_cast<size_t>(part.first_position));
    for (const int32_t token : part.tokens) {
      const int32_t known = token == kLatestToken ? slot.latest : token;
      require(known >= 0 || (on_device && slot.sampled), "a step wants a token that none has sampled",
              part.slot);
      slot.history.push_back(known);
      tokens.push_back(known);
    }
  }
  InFlight step{{plan.step, {}, {}}, {}};
  const std::vector<StepSample> samples = on_device ? await_samples(plan, step) : std::vector<StepSample>();
  const bool from_all = std::any_of(samples.begin(), samples.end(), [&](const StepSample& sample) {
    return slots_[static_cast<size_t>(sample.slot)].road == sampling::Road::everything;
  });
  model_.forward({tokens, sequences, samples, from_all});
  gather_logits(plan, sink);
  if (!on_device) step.results = sample(plan);
  in_flight_.push_back(std::move(step));
}

/// The tokens that the device shall choose, which `step` awaits from now on.
std::vector<StepSample> Executor::await_samples(const StepPlan& plan, InFlight& step) {
  std::vector<StepSample> samples;
  int64_t end = 0;
  for (const PlanSequence& part : plan.sequences) {
    end += static_cast<int64_t>(part.tokens.size());
    if (!part.sample) continue;
    Slot& slot = slots_[static_cast<size_t>(part.slot)];
    samples.push_back({static_cast<int32_t>(end - 1), part.slot});
    step.awaited.push_back({part.slot, slot.admission, slot.history.size()});
    slot.latest = kLatestToken;
    slot.sampled = true;
  }
  return samples;
}

StepResults Executor::collect() {
  require(!in_flight_.empty(), "no step is in flight");
  InFlight step = std::move(in_flight_.front());
  in_flight_.pop_front();
  take_from_device(step);
  return std::move(step.results);
}

/// Hands the logits of every token of the sequences that want them to rank 0, some rows at a time.
void Executor::gather_logits(const StepPlan& plan, const LogitsSink& sink) {
  const auto row_bytes = static_cast<size_t>(largest_shard_) * sizeof(float);
  const auto rows_at_once = static_cast<int64_t>(std::max<size_t>(1, kLogitsExchangeBytes / row_bytes));
  std::vector<float> row(static_cast<size_t>(model_.config().n_vocab));
  int64_t first_token = 0;
  for (size_t index = 0; index < plan.sequences.size(); ++index) {
    const PlanSequence& part = plan.sequences[index];
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
      const auto contributions = communicator_.publish();
      if (!sink) continue;
      for (size_t i = 0; i < outputs.size(); ++i) {
        for (int r = 0; r < communicator_.size(); ++r) {
          const Range vocab = model_.plan().rank(r).vocab;
          const auto* shard = reinterpret_cast<const float*>(contributions[static_cast<size_t>(r)]);
          std::copy_n(shard + static_cast<int64_t>(i) * vocab.size(), vocab.size(),
                      row.begin() + vocab.begin);
        }
        sink(index, part.first_position + outputs[i] - tokens.begin, row);
      }
    }
  }
}

StepResults Executor::sample(const StepPlan& plan) {
  StepResults results;
  results.step = plan.step;
  std::vector<int64_t> outputs;
  int64_t end = 0;
  for (const PlanSequence& part : plan.sequences) {
    end += static_cast<int64_t>(part.tokens.size());
    if (part.sample) outputs.push_back(end - 1);
  }
  if (outputs.empty()) return results;
  const std::span<const float> logits = model_.logits(outputs);
  const auto n_local = static_cast<size_t>(model_.vocab().size());
  std::vector<SampleRow> rows;
  for (const PlanSequence& part : plan.sequences) {
    if (!part.sample) continue;
    const Slot& slot = slots_[static_cast<size_t>(part.slot)];
    rows.push_back(
        {logits.subspan(rows.size() * n_local, n_local), &slot.sampling, slot.history, slot.history.size()});
  }
  if (device_ != nullptr) ++n_sampled_by_host_;
  results.tokens = sampler_.sample(rows);
  const bool wants_logprobs =
      std::any_of(rows.begin(), rows.end(), [](const SampleRow& row) { return row.params->n_logprobs >= 0; });
  if (wants_logprobs) results.logprobs = sampler_.logprobs(rows, results.tokens);
  size_t n_taken = 0;
  for (const PlanSequence& part : plan.sequences) {
    if (part.sample) slots_[static_cast<size_t>(part.slot)].latest = results.tokens[n_taken++];
  }
  return results;
}

}  // namespace tandem
