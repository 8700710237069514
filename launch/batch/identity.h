// What a batch's results depend on, named and hashed: the journal is bound to it, and every id is made from
// it. Used by launch/commands/batch.cpp on rank 0.
#pragma once

#include <string>

#include "launch/batch/input.h"
#include "launch/batch/journal.h"
#include "launch/batch/request.h"
#include "runtime/gguf/gguf.h"

namespace tandem {

/// The options that results depend on, beside model and input.
struct BatchSettings {
  BatchDefaults defaults;
  BatchEndpoint prompts_as = BatchEndpoint::completions;
  int64_t context_tokens = 0;
  std::string cache_type;
  std::string chat_template;  ///< the file's content; empty: the model's own
  int64_t created = 0;
};

JournalFacts batch_facts(const GgufFile& model, const BatchInput& input, const BatchSettings& settings);

}  // namespace tandem
