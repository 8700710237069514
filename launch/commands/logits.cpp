// tandem logits: the logits of every token of a text as a NumPy file, the tool that every comparison stands
// on.
#include <fmt/format.h>

#include <charconv>
#include <span>

#include "comm/process.h"
#include "launch/command.h"
#include "launch/job.h"
#include "launch/npy.h"
#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/session.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

std::vector<int32_t> parse_token_list(const OptionParser& parser, const std::string& text) {
  std::vector<int32_t> tokens;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    int32_t token = -1;
    const auto [last, status] = std::from_chars(text.data() + begin, text.data() + end, token);
    if (status != std::errc{} || last != text.data() + end || token < 0) {
      parser.fail_value("--tokens", text, "not a list of token ids such as 1,2,3");
    }
    tokens.push_back(token);
    begin = end + 1;
  }
  return tokens;
}

}  // namespace

int logits_command(Job& job, const Arguments& arguments) {
  OptionParser parser("logits", "Write the logits of every token of a text",
                      "The file is a float32 matrix (n_tokens, n_vocab) in NumPy's format.");
  ModelOptions model;
  PromptOptions prompt;
  std::string token_list;
  std::string out_path;
  add_model_options(parser, model);
  add_text_options(parser, prompt);
  parser.add_text("tokens", token_list, "1,2,3", "token ids in place of a text");
  parser.add_text("out,o", out_path, "FILE", "the .npy file to write (required)");
  parser.add_alternatives({"tokens", "prompt", "file"});
  if (!parser.parse(arguments)) return 0;
  if (out_path.empty())
    throw Error(ExitCode::usage, "--out is missing", "tandem logits -m F -p TEXT -o out.npy");
  std::vector<int32_t> tokens;
  if (!token_list.empty()) tokens = parse_token_list(parser, token_list);
  require_model(parser, model);
  if (token_list.empty()) require_text(parser);

  Communicator& communicator = job.start(parser.settings());
  note_phase("load");
  SessionOptions options = session_options(model);
  options.wants_tokenizer = false;
  if (token_list.empty() && communicator.rank() == 0)
    tokens = Tokenizer::from_gguf(GgufFile::open(model.model))->encode(prompt_text(parser, prompt));
  // The context is what the text needs, and every rank has to know it.
  auto n_tokens = static_cast<int64_t>(tokens.size());
  communicator.broadcast(std::as_writable_bytes(std::span(&n_tokens, 1)), 0);
  if (model.n_ctx == 0) options.context_tokens = std::max<int64_t>(1, n_tokens);
  Session session(options, communicator);
  if (communicator.rank() != 0) return session.engine().follow();

  NpyWriter out(out_path, static_cast<int64_t>(tokens.size()), session.config().n_vocab);
  EvaluationRequest request;
  request.tokens = tokens;
  request.on_logits = [&](int64_t, std::span<const float> row) { out.write_row(row); };
  session.engine().submit(std::move(request));
  const int code = run_until_idle(session.engine());
  if (code == 0) out.close();
  session.engine().shutdown(code);
  return code;
}

}  // namespace tandem
