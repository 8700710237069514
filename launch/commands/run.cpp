// tandem run: continue a prompt, or answer it in the model's chat form, streaming text to stdout on rank 0.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <random>

#include "comm/process.h"
#include "launch/command.h"
#include "launch/generation.h"
#include "launch/job.h"
#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/output.h"
#include "launch/progress.h"
#include "launch/session.h"
#include "ops/core/error.h"
#include "runtime/text/chat_template.h"

namespace tandem {

int run_command(Job& job, const Arguments& arguments) {
  OptionParser parser("run", "Continue a prompt",
                      "The text goes to stdout as it comes, the speed to stderr at the end.");
  ModelOptions model;
  PromptOptions prompt;
  SamplingOptions sampling;
  ChatOptions chat;
  bool as_chat = false;
  bool show_prompt = false;
  add_model_options(parser, model);
  add_prompt_options(parser, prompt);
  add_sampling_options(parser, sampling);
  parser.add_flag("chat", as_chat, "answer the prompt as a chat message, through the model's chat template");
  parser.add_flag("show-prompt", show_prompt, "print the prompt in front of its continuation");
  add_chat_options(parser, chat);
  if (!parser.parse(arguments)) return 0;
  require_model(parser, model);
  require_text(parser);

  Communicator& communicator = job.start(parser.settings());
  const std::string text = communicator.rank() == 0 ? prompt_text(parser, prompt) : std::string();
  note_phase("load");
  LoadBar bar(model.progress, communicator.rank());
  SessionOptions options = session_options(model);
  options.on_progress = bar.callback();
  Session session(options, communicator);
  bar.finish();
  report_load(session, communicator);
  if (communicator.rank() != 0) {
    const int code = session.engine().follow();
    report_workspace(session);
    return code;
  }

  const Tokenizer& tokenizer = session.tokenizer();
  std::vector<int32_t> tokens;
  if (as_chat) {
    const ChatTemplate chat_template = open_chat_template(chat, session.file());
    std::vector<ChatMessage> messages;
    if (!chat.system.empty()) messages.push_back({"system", chat.system});
    messages.push_back({"user", text});
    tokens = encode_chat(chat_template, messages, tokenizer);
  } else {
    tokens = tokenizer.encode(text);
  }
  if (show_prompt) print_result(tokenizer.decode(tokens, true));
  Generation generation(session, sampling_params(sampling), prompt.stop, sampling.ignore_eos, as_chat);
  const int code = generation.run(std::move(tokens), prompt.n_predict, [](const std::string& piece) {
    print_result(piece);
    return true;
  });
  print_result("\n");
  if (code == 0) generation.report();
  report_workspace(session);
  session.engine().shutdown(code);
  return code;
}

}  // namespace tandem
