#include "launch/batch/identity.h"

#include <fmt/format.h>

#include "launch/model_identity.h"

namespace tandem {

JournalFacts batch_facts(const GgufFile& model, const BatchInput& input, const BatchSettings& settings) {
  const SamplingParams& p = settings.defaults.sampling;
  JournalFacts facts;
  facts["model"] = fmt::format("{} of {} bytes", model_identity(model).hex(), model.total_bytes());
  facts["input"] = fmt::format("{} of {} bytes", input.hash().hex(), input.n_bytes());
  facts["kind of input"] = input.kind() == InputKind::requests          ? "requests"
                           : settings.prompts_as == BatchEndpoint::chat ? "prompts as chats"
                                                                        : "prompts";
  facts["model name"] = settings.defaults.model;
  facts["--ctx-size"] = settings.context_tokens;
  facts["--cache-type-k"] = settings.cache_type;
  facts["--n-predict"] = settings.defaults.max_new_tokens;
  facts["--stop"] = settings.defaults.stop;
  facts["--seed"] = p.seed;
  facts["--temp"] = fmt::format("{}", p.temperature);
  facts["--top-k"] = p.top_k;
  facts["--top-p"] = fmt::format("{}", p.top_p);
  facts["--min-p"] = fmt::format("{}", p.min_p);
  facts["--repeat-penalty"] = fmt::format("{}", p.repeat_penalty);
  facts["--repeat-last-n"] = p.repeat_last_n;
  facts["--frequency-penalty"] = fmt::format("{}", p.frequency_penalty);
  facts["--presence-penalty"] = fmt::format("{}", p.presence_penalty);
  facts["--ignore-eos"] = settings.defaults.ignore_eos;
  facts["--logit-bias"] = JournalFacts::array();
  // As text: JSON has no infinity.
  for (const LogitBias& bias : p.bias)
    facts["--logit-bias"].push_back(fmt::format("{}{:+}", bias.token, bias.bias));
  facts["--system-prompt"] = settings.defaults.system;
  facts["--chat-template-file"] = settings.chat_template.empty() ? "" : hash128(settings.chat_template).hex();
  facts["--created"] = settings.created;
  // As it will be read again: flags may hold bytes that are no UTF-8, which JSON can't.
  return JournalFacts::parse(facts.dump(-1, ' ', false, JournalFacts::error_handler_t::replace));
}

}  // namespace tandem
