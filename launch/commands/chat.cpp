// tandem chat: a conversation at the terminal. Each line is a message; the cache keeps what was said, so that
// only the new part is computed. Enter stops an answer (mpirun keeps Ctrl-C for itself), a line typed
// meanwhile waits for its turn (so a script can be piped in), Ctrl-D ends the program.
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>

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
#include "runtime/text/utf8.h"

namespace tandem {
namespace {

/// Lines from standard input, readable while an answer is being generated.
class LineInput {
 public:
  /// The next line, waiting for it; nothing at the end of input or when a signal came.
  std::optional<std::string> wait() {
    while (true) {
      if (std::optional<std::string> line = take_line()) return line;
      if (ended_ || pending_signal() != 0) return {};
      read_some(kWaitMs);
    }
  }
  /// True once for an empty line that waits to be read: Enter, and nothing else.
  bool take_enter() {
    read_some(0);
    if (buffer_.empty() || buffer_.front() != '\n') return false;
    buffer_.erase(0, 1);
    return true;
  }

 private:
  static constexpr int kWaitMs = 100;

  std::optional<std::string> take_line() {
    const size_t end = buffer_.find('\n');
    if (end == std::string::npos) {
      if (!ended_ || buffer_.empty()) return {};
      return std::exchange(buffer_, {});
    }
    std::string line = buffer_.substr(0, end);
    buffer_.erase(0, end + 1);
    return line;
  }
  void read_some(int wait_ms) {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (ended_ || ::poll(&input, 1, wait_ms) <= 0) return;
    char bytes[4096];
    const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof(bytes));
    if (n < 0 && errno != EINTR && errno != EAGAIN)
      throw Error(ExitCode::io, fmt::format("can't read standard input: {}", std::strerror(errno)));
    for (ssize_t i = 0; i < n; ++i) {
      if (bytes[i] == '\n' && buffer_.ends_with('\r')) buffer_.pop_back();  // a script's lines may end so
      buffer_ += bytes[i];
    }
    if (n == 0) ended_ = true;
  }

  std::string buffer_;
  bool ended_ = false;
};

/// Talks until the input ends. Returns the exit code.
int converse(Session& session, const ChatTemplate& chat_template, const ChatOptions& chat,
             Generation& generation, int64_t n_predict) {
  constexpr int64_t kConversation = 1;  // the engine session whose cache holds it
  LineInput input;
  std::vector<ChatMessage> beginning;
  if (!chat.system.empty()) beginning.push_back({"system", chat.system});
  std::vector<ChatMessage> messages = beginning;
  bool interrupted = false;
  generation.set_interrupt([&] {
    const int signal = pending_signal();
    interrupted = signal == SIGINT || input.take_enter();
    if (signal == SIGINT) clear_pending_signal();
    return interrupted;
  });
  while (true) {
    print_result("> ");
    note_phase("idle");
    const std::optional<std::string> line = input.wait();
    if (const int signal = pending_signal(); signal != 0) return 128 + signal;
    if (!line) return 0;
    if (line->empty()) continue;  // an Enter that came just after the answer's end
    messages.push_back({"user", replace_invalid_bytes(*line)});
    std::vector<int32_t> tokens = encode_chat(chat_template, messages, session.tokenizer());
    const int64_t n_context = session.engine().options().context_tokens;
    const auto fits = [&] { return static_cast<int64_t>(tokens.size()) < n_context; };
    if (!fits()) {
      std::vector<ChatMessage> anew = beginning;
      anew.push_back(messages.back());
      tokens = encode_chat(chat_template, anew, session.tokenizer());
      if (!fits()) {
        spdlog::warn("the message takes {} of the context's {} tokens: no room for an answer", tokens.size(),
                     n_context);
        messages.pop_back();
        continue;
      }
      spdlog::warn("the conversation no longer fits the context of {} tokens; it starts anew", n_context);
      messages = std::move(anew);
    }
    interrupted = false;
    const int code = generation.run(
        std::move(tokens), n_predict,
        [](const std::string& piece) {
          print_result(piece);
          return true;
        },
        kConversation);
    print_result(interrupted ? " [stopped]\n" : "\n");
    if (code != 0) return code;
    messages.push_back({"assistant", generation.text()});
    generation.report();
  }
}

}  // namespace

int chat_command(Job& job, const Arguments& arguments) {
  OptionParser parser("chat", "Converse with a model",
                      "One message a line. Enter stops an answer, Ctrl-D ends the chat.");
  ModelOptions model;
  SamplingOptions sampling;
  ChatOptions chat;
  int64_t n_predict = -1;
  std::vector<std::string> stops;
  add_model_options(parser, model);
  add_sampling_options(parser, sampling);
  add_chat_options(parser, chat);
  parser.add_integer("n-predict,n", n_predict, -1, 1 << 30,
                     "most tokens of an answer; -1: until the context is full");
  if (!parser.parse(arguments)) return 0;
  require_model(parser, model);

  Communicator& communicator = job.start(parser.settings());
  note_phase("load");
  LoadBar bar(model.progress, communicator.rank());
  SessionOptions options = session_options(model);
  options.on_progress = bar.callback();
  Session session(options, communicator);
  bar.finish();
  report_load(session, communicator);
  if (communicator.rank() != 0) return session.engine().follow();

  const ChatTemplate chat_template = open_chat_template(chat, session.file());
  Generation generation(session, sampling_params(sampling), stops, sampling.ignore_eos, true);
  const int code = converse(session, chat_template, chat, generation, n_predict);
  session.engine().shutdown(code);
  return code;
}

}  // namespace tandem
