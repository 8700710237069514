#include "runtime/engine/step_plan.h"

#include <cstring>
#include <type_traits>

#include "ops/core/check.h"

namespace tandem {
namespace {

class Writer {
 public:
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void put(const T& value) {
    const auto* raw = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), raw, raw + sizeof(T));
  }
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void put(const std::vector<T>& values) {
    put(static_cast<uint32_t>(values.size()));
    const auto* raw = reinterpret_cast<const std::byte*>(values.data());
    bytes_.insert(bytes_.end(), raw, raw + values.size() * sizeof(T));
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}
  template <class T>
  T get() {
    T value;
    require(rest_.size() >= sizeof(T), "step plan is cut short", rest_.size());
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }
  template <class T>
  std::vector<T> get_vector() {
    std::vector<T> values(get<uint32_t>());
    require(rest_.size() >= values.size() * sizeof(T), "step plan is cut short", rest_.size());
    if (!values.empty()) std::memcpy(values.data(), rest_.data(), values.size() * sizeof(T));
    rest_ = rest_.subspan(values.size() * sizeof(T));
    return values;
  }
  bool done() const { return rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
};

void put_sampling(Writer& out, const SamplingParams& p) {
  out.put(p.temperature);
  out.put(p.top_k);
  out.put(p.top_p);
  out.put(p.min_p);
  out.put(p.repeat_penalty);
  out.put(p.frequency_penalty);
  out.put(p.presence_penalty);
  out.put(p.repeat_last_n);
  out.put(p.seed);
  out.put(p.bias);
  out.put(p.n_logprobs);
}

SamplingParams get_sampling(Reader& in) {
  SamplingParams p;
  p.temperature = in.get<float>();
  p.top_k = in.get<int32_t>();
  p.top_p = in.get<float>();
  p.min_p = in.get<float>();
  p.repeat_penalty = in.get<float>();
  p.frequency_penalty = in.get<float>();
  p.presence_penalty = in.get<float>();
  p.repeat_last_n = in.get<int32_t>();
  p.seed = in.get<uint64_t>();
  p.bias = in.get_vector<LogitBias>();
  p.n_logprobs = in.get<int32_t>();
  return p;
}

}  // namespace

int64_t StepPlan::n_tokens() const {
  int64_t n = 0;
  for (const PlanSequence& sequence : sequences) n += static_cast<int64_t>(sequence.tokens.size());
  return n;
}

std::vector<std::byte> StepPlan::serialize() const {
  Writer out;
  out.put(kind);
  out.put(exit_code);
  out.put(step);
  out.put(n_collect);
  out.put(static_cast<uint32_t>(admissions.size()));
  for (const PlanAdmission& admission : admissions) {
    out.put(admission.slot);
    put_sampling(out, admission.sampling);
    out.put(admission.history);
  }
  out.put(static_cast<uint32_t>(sequences.size()));
  for (const PlanSequence& sequence : sequences) {
    out.put(sequence.slot);
    out.put(sequence.first_position);
    out.put(sequence.tokens);
    out.put(sequence.pages);
    out.put(sequence.sample);
    out.put(sequence.logits_from);
    out.put(sequence.n_prompt);
  }
  return out.take();
}

StepPlan StepPlan::deserialize(std::span<const std::byte> bytes) {
  Reader in(bytes);
  StepPlan plan;
  plan.kind = in.get<PlanKind>();
  plan.exit_code = in.get<int32_t>();
  plan.step = in.get<uint64_t>();
  plan.n_collect = in.get<int32_t>();
  plan.admissions.resize(in.get<uint32_t>());
  for (PlanAdmission& admission : plan.admissions) {
    admission.slot = in.get<int32_t>();
    admission.sampling = get_sampling(in);
    admission.history = in.get_vector<int32_t>();
  }
  plan.sequences.resize(in.get<uint32_t>());
  for (PlanSequence& sequence : plan.sequences) {
    sequence.slot = in.get<int32_t>();
    sequence.first_position = in.get<int32_t>();
    sequence.tokens = in.get_vector<int32_t>();
    sequence.pages = in.get_vector<int32_t>();
    sequence.sample = in.get<bool>();
    sequence.logits_from = in.get<int32_t>();
    sequence.n_prompt = in.get<int32_t>();
  }
  require(in.done(), "step plan has bytes left over");
  return plan;
}

}  // namespace tandem
