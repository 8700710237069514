// tandem perplexity: how well a model predicts a text, comparable with llama-perplexity's figure.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>

#include "comm/process.h"
#include "launch/command.h"
#include "launch/job.h"
#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/output.h"
#include "launch/scoring.h"
#include "launch/session.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr int kLeastChunk = 4;  // the second half but its first token is scored

}  // namespace

int perplexity_command(Job& job, const Arguments& arguments) {
  OptionParser parser(
      "perplexity", "Measure a model's perplexity on a text",
      "As llama-perplexity: chunks of -c tokens (default 512), the second half of each is scored.");
  ModelOptions model;
  PromptOptions prompt;
  model.n_ctx = 512;
  int64_t most_chunks = -1;
  add_model_options(parser, model);
  add_text_options(parser, prompt);
  parser.add_integer("chunks", most_chunks, -1, 1 << 30, "score at most so many chunks; -1: all");
  if (!parser.parse(arguments)) return 0;
  require_model(parser, model);
  require_text(parser);
  if (most_chunks == 0) parser.fail("--chunks 0: nothing to score");
  if (model.n_ctx > 0 && model.n_ctx < kLeastChunk)
    parser.fail(fmt::format("-c {}: a chunk has {} tokens at least", model.n_ctx, kLeastChunk));
  Communicator& communicator = job.start(parser.settings());
  const std::string text = communicator.rank() == 0 ? prompt_text(parser, prompt) : std::string();
  note_phase("load");
  Session session(session_options(model), communicator);
  if (communicator.rank() != 0) return session.engine().follow();

  const int64_t n_context = session.engine().options().context_tokens;
  std::vector<int32_t> tokens =
      session.tokenizer().encode(text, {.add_special = true, .parse_special = false});
  if (static_cast<int64_t>(tokens.size()) < n_context) {
    throw Error(ExitCode::usage,
                fmt::format("the text has {} tokens, one chunk needs {}", tokens.size(), n_context),
                "give a longer text or a smaller -c");
  }
  int64_t n_chunks = static_cast<int64_t>(tokens.size()) / n_context;
  if (most_chunks >= 0) n_chunks = std::min(n_chunks, most_chunks);
  tokens.resize(static_cast<size_t>(n_chunks * n_context));
  spdlog::info("perplexity over {} chunks of {} tokens", n_chunks, n_context);
  const int32_t bos = session.tokenizer().add_bos() ? session.tokenizer().bos() : -1;
  const auto start = std::chrono::steady_clock::now();
  const PerplexityEstimate estimate = score_text(
      session.engine(), tokens, n_context, bos,
      [&](int64_t chunk, const PerplexityEstimate& so_far) {
        print_result(fmt::format("[{}]{:.4f},", chunk + 1, so_far.perplexity()));
      },
      [] { return pending_signal() == 0; });
  const int signal = pending_signal();
  const int code = signal == 0 ? 0 : 128 + signal;
  if (code == 0) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    print_result(
        fmt::format("\nFinal estimate: PPL = {:.4f} +/- {:.5f}\n", estimate.perplexity(), estimate.error()));
    spdlog::info("{:.1f} tokens/s", static_cast<double>(tokens.size()) / seconds);
  }
  session.engine().shutdown(code);
  return code;
}

}  // namespace tandem
