// Works a batch's lines off: reads them as room comes free, submits their sequences to the engine, and puts
// each line's result into the journal when its last sequence has ended. Only the lines that are being worked
// on are held in memory. Used by launch/commands/batch.cpp on rank 0.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launch/batch/input.h"
#include "launch/batch/journal.h"
#include "launch/batch/request.h"
#include "launch/batch/response.h"
#include "runtime/engine/engine.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace tandem {

struct BatchRunOptions {
  BatchDefaults defaults;
  BatchIdentity identity;
  BatchEndpoint prompts_as = BatchEndpoint::completions;  ///< what lines of plain text are
  int64_t n_vocab = 0;                                    ///< of the model
  int64_t n_parallel = 16;                                ///< sequences in the engine at once
};

/// How far a run has come.
struct BatchProgress {
  uint64_t n_lines = 0;
  uint64_t n_done = 0;         ///< lines, those of earlier runs included
  uint64_t n_done_before = 0;  ///< of earlier runs
  int64_t n_prompt = 0;        ///< tokens of this run's finished lines
  int64_t n_new = 0;           ///< tokens of this run, unfinished lines' included
};

class BatchRunner {
 public:
  /// `chat_template` may be null: then lines of the chat endpoint are faults that say `no_template`.
  BatchRunner(Engine& engine, const Tokenizer& tokenizer, const ChatTemplate* chat_template,
              std::string no_template, const BatchInput& input, Journal& journal, BatchRunOptions options);
  ~BatchRunner();

  /// Until all lines are done (0) or a signal has come (which one). What is done by then is in the journal.
  int run(const std::function<void(const BatchProgress&)>& on_progress);

  const BatchProgress& progress() const { return progress_; }

 private:
  struct Work;
  struct Sequence;

  bool open_next_line();
  void open(uint64_t index, const InputLine& line);
  BatchLine read(const InputLine& line) const;
  std::vector<int32_t> encode_conversation(const BatchRequest& request) const;
  std::vector<std::vector<int32_t>> tokenize(const BatchRequest& request) const;
  void check_token(int32_t token, const std::string& param) const;
  static void check_size(const BatchRequest& request, size_t n_prompts);
  void fail(uint64_t index, uint64_t number, const std::string& custom_id, const BatchFault& fault);
  void fill();
  void submit(const std::shared_ptr<Work>& work, size_t choice);
  void close_finished();
  void record(Work& work);

  Engine& engine_;
  const Tokenizer& tokenizer_;
  const ChatTemplate* chat_template_;
  std::string no_template_;
  const BatchInput& input_;
  Journal& journal_;
  BatchRunOptions options_;
  BatchProgress progress_;
  uint64_t next_line_ = 0;
  std::shared_ptr<Work> opened_;  // has choices that are not submitted yet
  int64_t n_running_ = 0;         // sequences
  std::vector<std::shared_ptr<Work>> finished_;
};

}  // namespace tandem
