#include "launch/generation.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <random>

#include "comm/process.h"
#include "ops/core/error.h"
#include "runtime/engine/text_stream.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Special tokens as a template wants them written; "" where the vocabulary has none.
std::string special_text(const Tokenizer& tokenizer, int32_t id) {
  return id < 0 ? std::string() : tokenizer.token_text(id);
}

}  // namespace

void add_chat_options(OptionParser& parser, ChatOptions& options) {
  parser.add_text("system-prompt,sys", options.system, "TEXT", "the system message of a chat");
  parser.add_text("chat-template-file", options.template_file, "FILE",
                  "a Jinja template in place of the model's own");
}

ChatTemplate open_chat_template(const ChatOptions& options, const GgufFile& file) {
  if (!options.template_file.empty()) return ChatTemplate::from_file(options.template_file);
  return ChatTemplate::from_gguf(file);
}

std::vector<int32_t> encode_chat(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                                 const Tokenizer& tokenizer) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages)
    list.push_back({{"role", message.role}, {"content", message.content}});
  return encode_messages(chat_template, list, nlohmann::ordered_json::object(), tokenizer);
}

std::vector<int32_t> encode_messages(const ChatTemplate& chat_template,
                                     const nlohmann::ordered_json& messages,
                                     const nlohmann::ordered_json& variables, const Tokenizer& tokenizer) {
  const std::string bos = special_text(tokenizer, tokenizer.bos());
  nlohmann::ordered_json all = variables;
  all["messages"] = messages;
  const std::string text = chat_template.render({}, true, bos, special_text(tokenizer, tokenizer.eos()), all);
  // Most templates write BOS themselves; it must not come twice.
  const bool has_bos = !bos.empty() && text.starts_with(bos);
  return tokenizer.encode(text, {.add_special = !has_bos, .parse_special = true});
}

SamplingParams sampling_params(const SamplingOptions& options) {
  SamplingParams params;
  params.temperature = static_cast<float>(options.temperature);
  params.top_k = options.top_k;
  params.top_p = static_cast<float>(options.top_p);
  params.min_p = static_cast<float>(options.min_p);
  params.repeat_penalty = static_cast<float>(options.repeat_penalty);
  params.repeat_last_n = options.repeat_last_n;
  params.frequency_penalty = static_cast<float>(options.frequency_penalty);
  params.presence_penalty = static_cast<float>(options.presence_penalty);
  for (const auto& [token, bias] : options.logit_bias)
    params.bias.push_back({token, static_cast<float>(bias)});
  if (options.seed) {
    params.seed = *options.seed;
  } else {
    params.seed = std::random_device()();
    if (!params.greedy()) spdlog::info("seed {}", params.seed);
  }
  return params;
}

void report_load(Session& session, Communicator& communicator) {
  Model& model = session.model();
  const LoadStats& stats = model.load_stats();
  const std::string mine = fmt::format(
      "{}; {}; weights {:.1f} MiB, KV cache {:.1f} MiB; read {:.1f} MiB of the file's {:.1f} in {} runs",
      model.backend().describe(), session.placement().reason,
      static_cast<double>(model.backend().weight_bytes()) / 0x1p20,
      static_cast<double>(model.backend().cache_bytes()) / 0x1p20,
      static_cast<double>(stats.bytes_read) / 0x1p20, static_cast<double>(stats.bytes_total) / 0x1p20,
      stats.n_reads);
  const std::vector<std::string> all = communicator.gather_text(mine);
  if (communicator.rank() != 0) return;
  for (const std::string& line : session.placement_lines()) spdlog::debug("{}", line);
  for (size_t r = 0; r < all.size(); ++r) spdlog::debug("rank {}: {}", r, all[r]);
  spdlog::info("{} on {} rank{}, loaded in {:.2f} s", session.config().name, communicator.size(),
               communicator.size() == 1 ? "" : "s", session.load_seconds());
}

void report_workspace(Session& session) {
  const auto n_bytes = static_cast<double>(session.model().backend().workspace_bytes());
  spdlog::debug("step buffers {:.1f} MiB", n_bytes / 0x1p20);
}

void report_device_time(Session& session, Communicator& communicator) {
  const std::optional<DeviceTime> mine = session.model().backend().take_device_time();
  if (!mine) return;  // then nobody has any
  const double all_s = mine->busy_s + mine->idle_s;
  const double share = all_s > 0.0 ? 100.0 * mine->idle_s / all_s : 0.0;
  const std::vector<std::string> shares = communicator.gather_text(fmt::format("{:.2f} %", share));
  if (communicator.rank() != 0 || mine->n_steps == 0) return;
  spdlog::info("GPUs idle between steps: {} of {:.2f} s ({} steps; {:.1f} ms at once at most)",
               fmt::join(shares, ", "), all_s, mine->n_steps, mine->longest_idle_s * 1e3);
}

int Generation::run(std::vector<int32_t> tokens, int64_t n_predict,
                    const std::function<bool(const std::string&)>& on_text, int64_t keep) {
  Engine& engine = session_.engine();
  const Tokenizer& tokenizer = session_.tokenizer();
  TextStream stream(tokenizer, stops_, at_start_);
  text_.clear();
  n_prompt_ = static_cast<int64_t>(tokens.size());
  n_cached_ = 0;
  finish_reason_ = FinishReason::stopped;
  n_new_ = 0;
  first_token_s_ = 0.0;
  const auto start = Clock::now();
  const auto show = [&](const std::string& piece) {
    text_ += piece;
    return piece.empty() || on_text(piece);
  };
  GenerationRequest request;
  request.prompt = std::move(tokens);
  request.sampling = sampling_;
  request.max_new_tokens = n_predict;
  request.session = keep;
  if (!ignore_eos_) request.is_end = [&](int32_t token) { return tokenizer.is_end_of_generation(token); };
  request.on_token = [&](int32_t token) {
    if (n_new_++ == 0) first_token_s_ = seconds_since(start);
    return show(stream.push(token)) && !stream.stopped();
  };
  request.on_start = [&](int64_t n_cached) { n_cached_ = n_cached; };
  request.on_finish = [&](FinishReason reason) { finish_reason_ = reason; };
  engine.submit(std::move(request));
  int code = 0;
  while (engine.busy() && code == 0) {
    if (interrupt_ && interrupt_()) {
      engine.cancel_all();
    } else if (const int signal = pending_signal(); signal != 0) {
      code = 128 + signal;
    } else {
      engine.step();
    }
  }
  show(stream.finish());
  total_s_ = seconds_since(start);
  if (n_new_ == 0) first_token_s_ = total_s_;
  note_phase("idle");
  return code;
}

void Generation::report() const {
  if (finish_reason_ == FinishReason::context_full) spdlog::info("the context is full");
  const double generation_s = total_s_ - first_token_s_;
  if (n_new_ > 0 || finish_reason_ != FinishReason::stopped) {  // an interrupted prompt has no speed
    const std::string cached = n_cached_ > 0 ? fmt::format(" ({} of them kept)", n_cached_) : std::string();
    spdlog::info("prompt {} tokens{}, {:.1f} tokens/s; first token after {:.3f} s", n_prompt_, cached,
                 static_cast<double>(n_prompt_ - n_cached_) / first_token_s_, first_token_s_);
  }
  if (n_new_ > 1 && generation_s > 0.0) {
    spdlog::info("generated {} tokens, {:.1f} tokens/s", n_new_,
                 static_cast<double>(n_new_ - 1) / generation_s);
  }
}

}  // namespace tandem
