#include "launch/batch/runner.h"

#include <fmt/format.h>

#include <utility>

#include "comm/process.h"
#include "launch/generation.h"
#include "ops/core/error.h"
#include "runtime/engine/text_stream.h"

namespace tandem {

/// A line that is being worked on.
struct BatchRunner::Work {
  uint64_t index = 0;
  uint64_t number = 0;
  std::string custom_id;
  BatchRequest request;
  std::vector<std::vector<int32_t>> prompts;
  std::vector<BatchChoice> choices;  // (prompts · n_choices)
  size_t n_submitted = 0;
  size_t n_ended = 0;
  int64_t n_prompt_tokens = 0;
};

/// A sequence's way from tokens to text.
struct BatchRunner::Sequence {
  Sequence(const Tokenizer& tokenizer, const BatchRequest& request)
      // A completion goes on with its prompt; a message begins a text.
      : detokenizer(tokenizer, false, request.endpoint == BatchEndpoint::chat), filter(request.stop) {}
  StreamingDetokenizer detokenizer;
  StopFilter filter;
  size_t n_bytes = 0;  // of text so far, what the filter holds back included
};

BatchRunner::BatchRunner(Engine& engine, const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                         std::string no_template, const BatchInput& input, Journal& journal,
                         BatchRunOptions options)
    : engine_(engine),
      tokenizer_(tokenizer),
      chat_template_(chat_template),
      no_template_(std::move(no_template)),
      input_(input),
      journal_(journal),
      options_(std::move(options)) {
  progress_.n_lines = input.n_lines();
  progress_.n_done = progress_.n_done_before = journal.n_done();
}

BatchRunner::~BatchRunner() = default;

int BatchRunner::run(const std::function<void(const BatchProgress&)>& on_progress) {
  while (true) {
    if (const int signal = pending_signal(); signal != 0) {
      journal_.sync();
      return signal;
    }
    fill();
    if (!engine_.busy()) {
      if (pending_signal() != 0) continue;
      break;
    }
    engine_.step();
    close_finished();
    journal_.sync_if_due();
    on_progress(progress_);
  }
  journal_.sync();
  on_progress(progress_);
  return 0;
}

/// Submits sequences until enough are under way, or no line is left, or a signal has come.
void BatchRunner::fill() {
  while (n_running_ < options_.n_parallel && pending_signal() == 0) {
    if (!opened_ && !open_next_line()) return;
    if (!opened_) continue;  // the line was a fault, or needs no computing
    submit(opened_, opened_->n_submitted++);
    if (opened_->n_submitted == opened_->choices.size()) opened_.reset();
  }
}

/// Reads the next line that is not done. False where there is none.
bool BatchRunner::open_next_line() {
  while (next_line_ < input_.n_lines() && journal_.has(next_line_)) ++next_line_;
  if (next_line_ >= input_.n_lines()) return false;
  const uint64_t index = next_line_++;
  open(index, input_.line(index));
  return true;
}

BatchLine BatchRunner::read(const InputLine& line) const {
  if (line.too_long) {
    return {
        {},
        BatchFault{0, "line_too_long", fmt::format("the line is longer than {} bytes", kMostLineBytes), {}}};
  }
  if (input_.kind() == InputKind::prompts) {
    return prompt_line(line.text, fmt::format("line-{}", line.number), options_.prompts_as,
                       options_.defaults);
  }
  if (line.repeats != 0) {
    return {{},
            BatchFault{0,
                       "duplicate_custom_id",
                       fmt::format("custom_id '{}' is that of line {} already",
                                   find_custom_id(line.text).substr(0, 200), line.repeats),
                       {}}};
  }
  return parse_batch_line(line.text, options_.defaults);
}

void BatchRunner::open(uint64_t index, const InputLine& line) {
  BatchLine parsed = read(line);
  if (const auto* fault = std::get_if<BatchFault>(&parsed.what)) {
    fail(index, line.number, parsed.custom_id, *fault);
    return;
  }
  auto work = std::make_shared<Work>();
  work->index = index;
  work->number = line.number;
  work->request = std::get<BatchRequest>(std::move(parsed.what));
  work->custom_id = parsed.custom_id;
  try {
    work->prompts = tokenize(work->request);
  } catch (const BatchFault& fault) {
    fail(index, line.number, parsed.custom_id, fault);
    return;
  }
  for (const auto& prompt : work->prompts) work->n_prompt_tokens += static_cast<int64_t>(prompt.size());
  work->choices.resize(work->prompts.size() * static_cast<size_t>(work->request.n_choices));
  if (work->request.max_new_tokens == 0) {  // an echo, or nothing: there is nothing to compute
    for (BatchChoice& choice : work->choices) choice.reached_length = true;
    record(*work);
    return;
  }
  opened_ = std::move(work);
}

/// Throws Error where the template refuses it.
std::vector<int32_t> BatchRunner::encode_conversation(const BatchRequest& request) const {
  const auto encode = [&](const nlohmann::ordered_json& messages) {
    return encode_messages(*chat_template_, messages, request.template_variables, tokenizer_);
  };
  if (const auto parsed = with_parsed_arguments(request.messages)) {
    try {
      return encode(*parsed);
    } catch (const Error&) {
      // Some templates put the arguments together as texts.
    }
  }
  return encode(request.messages);
}

/// The tokens of every prompt. Throws BatchFault where one can't be computed.
std::vector<std::vector<int32_t>> BatchRunner::tokenize(const BatchRequest& request) const {
  const bool is_chat = request.endpoint == BatchEndpoint::chat;
  const std::string param = is_chat ? "messages" : "prompt";
  std::vector<std::vector<int32_t>> prompts;
  if (is_chat && chat_template_ == nullptr) throw BatchFault{400, "no_chat_template", no_template_, param};
  try {
    if (is_chat) {
      prompts.push_back(encode_conversation(request));
    }
    for (const BatchPrompt& prompt : request.prompts) {
      const auto* tokens = std::get_if<std::vector<int32_t>>(&prompt);
      prompts.push_back(tokens != nullptr ? *tokens : tokenizer_.encode(std::get<std::string>(prompt)));
    }
  } catch (const Error& error) {
    // A template that refuses a conversation, a text beyond the tokenizer's bounds: that line's fault, and
    // the others go on.
    throw BatchFault{400, "invalid_prompt", error.what(), param};
  }
  const int64_t n_context = engine_.options().context_tokens;
  for (const auto& tokens : prompts) {
    const auto n = static_cast<int64_t>(tokens.size());
    if (n == 0) throw BatchFault{400, "empty_prompt", "the prompt has no token", param};
    if (n >= n_context && request.max_new_tokens != 0) {
      throw BatchFault{
          400, "context_length_exceeded",
          fmt::format("the prompt has {} tokens, the context {}: no room for an answer", n, n_context),
          param};
    }
    for (const int32_t token : tokens) check_token(token, param);
  }
  for (const LogitBias& bias : request.sampling.bias) check_token(bias.token, "logit_bias");
  check_size(request, prompts.size());
  return prompts;
}

/// Throws BatchFault, of the body's field `param`, where the model has no such token.
void BatchRunner::check_token(int32_t token, const std::string& param) const {
  if (token < options_.n_vocab) return;
  throw BatchFault{400, "invalid_token",
                   fmt::format("token {} is not in the vocabulary of {}", token, options_.n_vocab), param};
}

/// Throws BatchFault where the result would be more than a record is to hold.
void BatchRunner::check_size(const BatchRequest& request, size_t n_prompts) {
  const auto n_choices = static_cast<size_t>(request.n_choices);
  if (n_prompts * n_choices > kMostAnswers) {
    throw BatchFault{400, "too_many_choices",
                     fmt::format("{} prompts times {} choices are more than {} answers", n_prompts, n_choices,
                                 kMostAnswers),
                     "n"};
  }
  if (!request.echo) return;
  size_t n_bytes = 0;
  for (const BatchPrompt& prompt : request.prompts) {
    const auto* text = std::get_if<std::string>(&prompt);
    if (text != nullptr) n_bytes += text->size() * n_choices;
  }
  if (n_bytes > kMostEchoBytes) {
    throw BatchFault{
        400, "echo_too_long",
        fmt::format("the result would repeat {} bytes of prompts, more than {}", n_bytes, kMostEchoBytes),
        "echo"};
  }
}

void BatchRunner::fail(uint64_t index, uint64_t number, const std::string& custom_id,
                       const BatchFault& fault) {
  journal_.append({.line = index,
                   .failed = true,
                   .n_prompt = 0,
                   .n_new = 0,
                   .text = fault_line(options_.identity, number, custom_id, fault)});
  ++progress_.n_done;
}

void BatchRunner::submit(const std::shared_ptr<Work>& work, size_t index) {
  const BatchRequest& request = work->request;
  BatchChoice& choice = work->choices[index];
  auto sequence = std::make_shared<Sequence>(tokenizer_, request);
  const std::vector<int32_t>& prompt = work->prompts[index / static_cast<size_t>(request.n_choices)];
  GenerationRequest generation;
  generation.prompt = prompt;
  generation.sampling = request.sampling;
  generation.sampling.seed = choice_seed(request.sampling.seed, static_cast<int64_t>(index));
  generation.max_new_tokens = request.max_new_tokens;
  if (!request.ignore_eos)
    generation.is_end = [this](int32_t token) { return tokenizer_.is_end_of_generation(token); };
  const bool wants_logprobs = request.sampling.n_logprobs >= 0;
  if (wants_logprobs)
    generation.on_logprobs = [&choice](const ChoiceLogprobs& logprobs) {
      choice.logprobs.push_back(logprobs);
    };
  generation.on_token = [this, &choice, sequence, wants_logprobs](int32_t token) {
    ++choice.n_new;
    ++progress_.n_new;
    if (wants_logprobs) {
      choice.tokens.push_back(token);
      choice.offsets.push_back(sequence->n_bytes);
    }
    const std::string piece = sequence->detokenizer.push(token);
    sequence->n_bytes += piece.size();
    choice.text += sequence->filter.push(piece);
    choice.cut_by_stop = sequence->filter.stopped();
    return !choice.cut_by_stop;
  };
  generation.on_finish = [this, work, &choice, sequence](FinishReason reason) {
    choice.text += sequence->filter.push(sequence->detokenizer.finish());
    choice.cut_by_stop = sequence->filter.stopped();
    choice.text += sequence->filter.finish();
    choice.reached_length =
        !choice.cut_by_stop && (reason == FinishReason::length || reason == FinishReason::context_full);
    --n_running_;
    if (++work->n_ended == work->choices.size()) finished_.push_back(work);
  };
  ++n_running_;
  engine_.submit(std::move(generation));
}

/// Records the lines whose last sequence ended in this step; not within the engine's own call.
void BatchRunner::close_finished() {
  for (const std::shared_ptr<Work>& work : std::exchange(finished_, {})) record(*work);
}

void BatchRunner::record(Work& work) {
  JournalResult result;
  result.line = work.index;
  result.n_prompt = static_cast<uint64_t>(work.n_prompt_tokens);
  for (size_t i = 0; i < work.choices.size(); ++i) {
    BatchChoice& choice = work.choices[i];
    result.n_new += static_cast<uint64_t>(choice.n_new);
    if (!work.request.echo) continue;
    const size_t at = i / static_cast<size_t>(work.request.n_choices);
    const auto* text = std::get_if<std::string>(&work.request.prompts[at]);
    choice.text.insert(0, text != nullptr ? *text : tokenizer_.decode(work.prompts[at], true));
  }
  result.text = answer_line(
      options_.identity, work.number, work.custom_id, work.request, work.n_prompt_tokens, work.choices,
      [this](int32_t token, bool show_special) { return tokenizer_.token_bytes(token, show_special); });
  if (result.text.size() > kMostResultBytes) {
    result.failed = true;
    result.text = fault_line(
        options_.identity, work.number, work.custom_id,
        {400,
         "result_too_long",
         fmt::format("the result has {} bytes, more than {}", result.text.size(), kMostResultBytes),
         {}});
  }
  journal_.append(result);
  progress_.n_prompt += work.n_prompt_tokens;
  ++progress_.n_done;
}

}  // namespace tandem
