// tandem batch: answers a file of requests. Every result goes into a journal first, so that a run that was
// killed goes on where it was, and the output holds each line's result exactly once.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include "comm/process.h"
#include "launch/batch/identity.h"
#include "launch/batch/output.h"
#include "launch/batch/runner.h"
#include "launch/command.h"
#include "launch/generation.h"
#include "launch/job.h"
#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/progress.h"
#include "launch/session.h"
#include "ops/core/error.h"
#include "runtime/text/chat_template.h"

namespace tandem {
namespace {

constexpr int kMostParallel = 256;
constexpr int kUsr1GraceMs = 8000;  // the whole end within 10 s
constexpr int kTermGraceMs = 800;   // and within 1 s: launchers send SIGKILL then
constexpr int kTryAgain = static_cast<int>(ExitCode::try_again);
constexpr int kBadData = static_cast<int>(ExitCode::bad_data);

struct BatchOptions {
  ModelOptions model;
  SamplingOptions sampling;
  ChatOptions chat;
  std::string input;
  std::string prompts;
  std::string output;
  bool prompts_as_chat = false;
  bool any_order = false;  ///< --any-order
  int n_predict = -1;
  std::vector<std::string> stop;
  int n_parallel = 16;
  int64_t created = 0;
  bool overwrite = false;
  bool keep_journal = false;
  int64_t sync_records = 64;
  double sync_seconds = 1.0;
};

void add_batch_options(OptionParser& parser, BatchOptions& o) {
  parser.add_text(
      "input,i", o.input, "FILE",
      "requests, a line each: {\"custom_id\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\" or "
      "\"/v1/completions\", \"body\"}");
  parser.add_text("prompts", o.prompts, "FILE", "in place of -i: prompts, a line each");
  parser.add_flag("chat", o.prompts_as_chat, "with --prompts: answer each as a chat message");
  parser.add_text("output,o", o.output, "FILE", "the results, a line each in the input's order (required)");
  parser.add_integer("parallel,np", o.n_parallel, 1, kMostParallel, "sequences at once");
  add_model_options(parser, o.model);
  parser.add_flag(
      "any-order", o.any_order,
      "GPUs: not --deterministic, which batch takes for granted: faster, the more so the fewer sequences at "
      "once, but a result's last bits, and so its text, may depend on what else is computed");
  add_sampling_options(parser, o.sampling, Seed::fixed);
  parser.add_integer(
      "n-predict,n", o.n_predict, -1, 1 << 30,
      "tokens to generate where a request doesn't say; -1: until the text or the context ends");
  parser.add_custom("stop,r", "TEXT", "end before this text where a request doesn't say (repeatable)", "",
                    true, [&parser, &o](const std::string& text, const std::string& origin) {
                      if (text.empty()) parser.fail_value(origin, text, "an empty stop text");
                      o.stop.push_back(text);
                    });
  add_chat_options(parser, o.chat);
  parser.add_integer("created", o.created, 0, int64_t{1} << 40,
                     "what results give as their time of creation, a Unix time: the same in every run; where "
                     "given also what chat templates take for the time (else the first run's begin, UTC)");
  parser.add_flag("overwrite", o.overwrite, "replace another run's output or journal");
  parser.add_flag("keep-journal", o.keep_journal, "leave the journal when all is done");
  parser.add_integer("sync-records", o.sync_records, 1, 1 << 20,
                     "results at most that are not on the disk yet");
  parser.add_number("sync-seconds", o.sync_seconds, 0, 3600, "and for so long at most");
}

void check_options(OptionParser& parser, const BatchOptions& o) {
  require_model(parser, o.model);
  if (o.any_order && o.model.deterministic) parser.fail("give either --deterministic or --any-order");
  if (o.input.empty() == o.prompts.empty()) parser.fail("give either -i FILE or --prompts FILE");
  if (o.output.empty()) parser.fail("no output: give -o FILE");
  if (o.prompts_as_chat && o.prompts.empty())
    parser.fail("--chat is for --prompts: requests say what they are");
  const std::string& input = o.input.empty() ? o.prompts : o.input;
  std::error_code no_such_file;
  if (std::filesystem::equivalent(input, o.output, no_such_file))
    parser.fail("input and output are the same file");
  if (std::filesystem::exists(o.output, no_such_file) &&
      !std::filesystem::is_regular_file(o.output, no_such_file)) {
    parser.fail(o.output + " is not a regular file");
  }
}

/// The path without links, so that one file has one journal. Throws Error{io} where the system refuses it.
std::string canonical(const std::string& path) {
  std::error_code refused;
  const std::filesystem::path found = std::filesystem::weakly_canonical(path, refused);
  if (refused) throw Error(ExitCode::io, fmt::format("{}: {}", path, refused.message()));
  return found.string();
}

/// What rank 0 knows before the model is loaded.
class BatchRun {
 public:
  /// Reads the input, and opens the journal. Throws Error.
  explicit BatchRun(const BatchOptions& options)
      : options_(options),
        output_(canonical(options.output)),
        input_(options.input.empty() ? options.prompts : options.input,
               options.input.empty() ? InputKind::prompts : InputKind::requests) {
    const GgufFile file = GgufFile::open(options.model.model);
    const JournalFacts facts = describe(file);
    run_.identity = {hash128(facts.dump()), options.created};
    const std::string path = output_ + ".journal";
    const std::chrono::milliseconds unsynced_for(static_cast<int64_t>(options.sync_seconds * 1000));
    const JournalLimits limits{static_cast<uint64_t>(options.sync_records), unsynced_for};
    journal_.emplace(path, facts, input_.n_lines(), limits,
                     options.overwrite ? JournalOpening::begin_anew : JournalOpening::go_on);
    set_checkpoint_file(journal_->fd());
    if (journal_->n_bytes_cut() > 0 && !journal_->is_new())
      spdlog::warn("{}: a torn end of {} bytes was cut off", path, journal_->n_bytes_cut());
    if (journal_->is_new()) look_at_output();
    if (journal_->n_done() > 0)
      spdlog::info("{} of {} lines are done already", journal_->n_done(), journal_->n_lines());
  }
  ~BatchRun() { set_checkpoint_file(-1); }
  BatchRun(const BatchRun&) = delete;
  BatchRun& operator=(const BatchRun&) = delete;

  /// True where the output was there; nothing is to be done then.
  bool is_complete() const { return complete_.has_value(); }
  /// True where every line's result is in the journal: no model is needed.
  bool is_computed() const { return journal_->n_done() == journal_->n_lines(); }
  int exit_code_of_complete() const { return *complete_ > 0 ? kBadData : 0; }

  /// Rank 0's part of the job. Returns the exit code.
  int compute(Session& session);
  /// Turns the journal into the output. Returns the exit code.
  int finish();

 private:
  JournalFacts describe(const GgufFile& file);
  void look_at_output();
  int64_t clock() const;
  void report(double seconds) const;

  const BatchOptions& options_;
  std::string output_;
  BatchInput input_;
  BatchRunOptions run_;
  std::optional<Journal> journal_;
  std::optional<uint64_t> complete_;  // how many lines failed
  BatchProgress progress_;
};

JournalFacts BatchRun::describe(const GgufFile& file) {
  run_.defaults.sampling = sampling_params(options_.sampling);
  run_.defaults.max_new_tokens = options_.n_predict;
  run_.defaults.stop = options_.stop;
  run_.defaults.ignore_eos = options_.sampling.ignore_eos;
  run_.defaults.system = options_.chat.system;
  run_.defaults.model = std::filesystem::path(options_.model.model).stem().string();
  run_.prompts_as = options_.prompts_as_chat ? BatchEndpoint::chat : BatchEndpoint::completions;
  run_.n_parallel = options_.n_parallel;
  BatchSettings settings;
  settings.defaults = run_.defaults;
  settings.prompts_as = run_.prompts_as;
  settings.context_tokens =
      options_.model.n_ctx > 0 ? options_.model.n_ctx : default_context(ModelConfig::from_gguf(file));
  settings.cache_type = options_.model.cache_type_k;
  settings.created = options_.created;
  if (!options_.chat.template_file.empty()) settings.chat_template = file_text(options_.chat.template_file);
  return batch_facts(file, input_, settings);
}

/// There is no journal of this run: either it is done, or it has not begun.
void BatchRun::look_at_output() {
  const OutputCheck check = check_output(output_, input_, run_.identity);
  if (check.state == OutputState::missing || (check.state == OutputState::other && options_.overwrite))
    return;
  journal_->remove();
  if (check.state == OutputState::complete) {
    complete_ = check.n_failed;
    spdlog::info("{} is complete already: {} lines, {} failed", output_, input_.n_lines(), check.n_failed);
    return;
  }
  throw Error(ExitCode::bad_data, output_ + ": there is an output of another model, input or options",
              "give another -o, or --overwrite to replace it");
}

/// What templates take for the time, in every run of this batch: --created, or when the first one began.
int64_t BatchRun::clock() const {
  if (options_.created != 0) return options_.created;
  const JournalFacts* before = journal_->bound_before();
  return before != nullptr ? before->value("clock", int64_t{0}) : static_cast<int64_t>(std::time(nullptr));
}

int BatchRun::compute(Session& session) {
  JournalFacts facts;
  facts["backend"] = session.backend_kind();
  // On GPUs sums are rounded as the ranks cut them, and by the kernels that were chosen.
  if (session.backend_kind() != "CPU") {
    facts["ranks"] = session.model().plan().n_ranks();
    facts["deterministic"] = options_.model.deterministic;
  }
  journal_->bind(facts);
  const int64_t time = clock();
  journal_->bind({{"clock", time}});
  run_.n_vocab = session.config().n_vocab;
  std::unique_ptr<ChatTemplate> chat_template;
  std::string no_template;
  if (!options_.chat.template_file.empty() || session.file().has("tokenizer.chat_template")) {
    chat_template = std::make_unique<ChatTemplate>(open_chat_template(options_.chat, session.file()));
    chat_template->set_clock([time] {
      const std::time_t seconds = time;
      std::tm parts{};
      return *gmtime_r(&seconds, &parts);
    });
  } else {
    no_template = "the model has no chat template (give one with --chat-template-file)";
  }
  BatchBar bar(options_.model.progress, "lines");
  BatchRunner runner(session.engine(), session.tokenizer(), chat_template.get(), no_template, input_,
                     *journal_, run_);
  const auto start = std::chrono::steady_clock::now();
  const int signal = runner.run(
      [&](const BatchProgress& p) { bar.show(p.n_done, p.n_done_before, p.n_lines, p.n_prompt + p.n_new); });
  bar.finish();
  progress_ = runner.progress();
  report(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (signal == 0) return finish();
  spdlog::info("stopped by a signal: {} of {} lines are done; the same command goes on from there",
               journal_->n_done(), journal_->n_lines());
  return signal_answer(signal).exit_code;
}

void BatchRun::report(double seconds) const {
  const double per_second = seconds > 0 ? static_cast<double>(progress_.n_new) / seconds : 0.0;
  spdlog::info("{} lines in {}: prompts {} tokens, generated {} tokens, {:.1f} tokens/s",
               progress_.n_done - progress_.n_done_before, format_duration(seconds), progress_.n_prompt,
               progress_.n_new, per_second);
}

int BatchRun::finish() {
  write_output(output_, *journal_);
  const uint64_t n_failed = journal_->n_failed();
  spdlog::info("{}: {} lines, {} done, {} failed; prompts {} tokens, generated {} tokens", output_,
               journal_->n_lines(), journal_->n_lines() - n_failed, n_failed, journal_->n_prompt(),
               journal_->n_new());
  if (!options_.keep_journal) journal_->remove();
  return n_failed > 0 ? kBadData : 0;
}

/// What rank 0 tells the others before the model is loaded.
struct Opening {
  int32_t is_done = 0;
  int32_t exit_code = 0;
};

}  // namespace

int batch_command(Job& job, const Arguments& arguments) {
  OptionParser parser(
      "batch", "Answer a file of requests, exactly once",
      "Requests and results are lines in the form of OpenAI's batch service. Results go into OUTPUT.journal "
      "as\n"
      "they come, and into OUTPUT in the input's order at the end. Started again after any kind of end, the "
      "same\n"
      "command goes on where it was, and the output is the same, byte for byte (CPU, or the same GPUs "
      "without --any-order).\n"
      "Exit codes: 0 done; 65 done, with failed lines; 75 not done yet, start it again (SIGUSR1 and SIGTERM "
      "ask for\n"
      "that; another process that works on the same output is answered so too); 74 the disk refused, nothing "
      "is lost.");
  BatchOptions options;
  add_batch_options(parser, options);
  parser.add_alternatives({"input", "prompts"});
  if (!parser.parse(arguments)) return 0;
  check_options(parser, options);
  options.model.deterministic = !options.any_order;
  set_signal_answer(SIGUSR1, {kTryAgain, kUsr1GraceMs});
  set_signal_answer(SIGTERM, {kTryAgain, kTermGraceMs});
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond its limit is an error of the write, like a full disk

  Communicator& communicator = job.start(parser.settings());
  note_phase("open");
  std::optional<BatchRun> run;
  Opening opening;
  if (communicator.rank() == 0) {
    run.emplace(options);
    if (run->is_complete()) opening = {1, run->exit_code_of_complete()};
    if (!run->is_complete() && run->is_computed()) opening = {1, run->finish()};
  }
  communicator.broadcast(std::as_writable_bytes(std::span(&opening, 1)), 0);
  if (opening.is_done != 0) return opening.exit_code;

  note_phase("load");
  LoadBar bar(options.model.progress, communicator.rank());
  SessionOptions session_settings = session_options(options.model);
  session_settings.n_sequences = options.n_parallel;
  session_settings.on_progress = bar.callback();
  Session session(session_settings, communicator);
  bar.finish();
  report_load(session, communicator);
  int code = 0;
  if (communicator.rank() == 0) {
    code = run->compute(session);
    session.engine().shutdown(code);
  } else {
    code = session.engine().follow();
  }
  report_device_time(session, communicator);
  return code;
}

}  // namespace tandem
