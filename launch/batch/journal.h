// The journal of a batch: which lines are done, and with what result. Append-only; a record is whole and
// right (length and checksum, bound to its place in the file), or it and what follows it is cut off when the
// journal is opened again. It belongs to one model, one input and one set of options, which its first record
// names, and to one process at a time (flock). Used by launch/batch and launch/commands/batch.cpp on rank 0.
//
// An answer counts as acknowledged, and no crash loses it, when an fsync that began behind its append() has
// come back, at the latest where JournalLimits are reached; a checkpoint on a signal, like the run's end,
// calls sync(), which waits for the fsync that is under way and makes another for what came since.
//
// Layout: magic (8 bytes), then records: payload's length u32, kind u32, checksum u64, payload. The checksum
// (XXH3) is seeded with the record's offset, length and kind. Kinds: facts (a JSON object),
// result (line u64, prompt tokens u64, new tokens u64, failed u64, then the text). Little-endian, as the
// machines are.
#pragma once

#include <chrono>
#include <cstdint>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "launch/batch/disk.h"

namespace tandem {

/// What a journal is bound to: names and values, in the order in which they are compared.
using JournalFacts = nlohmann::ordered_json;

inline constexpr uint32_t kMostRecordBytes = uint32_t{1} << 30;
inline constexpr size_t kMostResultBytes = kMostRecordBytes - 64;  ///< of a result's text

/// The result of one line.
struct JournalResult {
  uint64_t line = 0;  ///< index among the input's lines
  bool failed = false;
  uint64_t n_prompt = 0;  ///< tokens
  uint64_t n_new = 0;
  std::string text;  ///< the output's line, without its end
};

struct JournalLimits {
  uint64_t n_unsynced = 64;                      ///< so many records at most are not on the disk yet
  std::chrono::milliseconds unsynced_for{1000};  ///< and so long
};

/// What becomes of a journal that is there.
enum class JournalOpening : uint8_t {
  go_on,       ///< it is continued, or refused where it is another run's
  begin_anew,  ///< it is continued where it is this run's, and emptied where it is another's
};

class Journal {
 public:
  /// Opens `path` or makes it, and locks it. A torn end is cut off.
  /// Throws Error{try_again} where another process holds it, Error{bad_data} where it is no journal, or one
  /// of other facts (it says which), Error{io} where the system refuses.
  Journal(std::string path, const JournalFacts& facts, uint64_t n_lines, JournalLimits limits = {},
          JournalOpening opening = JournalOpening::go_on, Disk& disk = Disk::real());

  const std::string& path() const { return path_; }
  bool has(uint64_t line) const { return offsets_[line] != 0; }
  uint64_t n_lines() const { return offsets_.size(); }
  uint64_t n_done() const { return n_done_; }
  uint64_t n_failed() const { return n_failed_; }
  uint64_t n_prompt() const { return n_prompt_; }  ///< tokens, of all results
  uint64_t n_new() const { return n_new_; }
  uint64_t n_bytes_cut() const { return n_bytes_cut_; }  ///< of a torn end, when it was opened
  bool is_new() const { return is_new_; }

  /// What bind() will compare with; null where it will write.
  const JournalFacts* bound_before() const {
    return n_facts_bound_ < facts_.size() ? &facts_[n_facts_bound_] : nullptr;
  }
  /// Facts that are known later than the journal's opening: written the first time, compared each other time.
  /// With begin_anew, a journal of other facts is emptied.
  /// Throws Error{bad_data} where they differ.
  void bind(const JournalFacts& facts);

  /// Adds a result, once a line. After an error the journal still holds all that was added before.
  void append(const JournalResult& result);
  /// Sees to it that what was added is on the disk within the limits; call it now and then. Begins at half of
  /// them and doesn't wait for the disk, which may take longer than a step, until they are reached.
  void sync_if_due();
  /// Puts all that was added on the disk; comes back when it is there.
  void sync();
  int fd() const { return file_.get(); }

  /// The text of a line's result. Throws Error{io} where it can't be read or is no longer what was written.
  std::string text(uint64_t line) const;

  /// Removes the file; the journal is done.
  void remove();

 private:
  struct Head {
    uint32_t n_bytes = 0;
    uint32_t kind = 0;
    uint64_t checksum = 0;
  };
  enum Kind : uint32_t { facts_kind = 1, result_kind = 2 };

  void lock();
  void open(const JournalFacts& facts);
  void read_back(uint64_t size);
  void start(const JournalFacts& facts);
  bool take(uint64_t offset, const Head& head, const std::string& payload);
  void write_record(Kind kind, std::string_view payload);
  bool has_unsynced(uint64_t n, std::chrono::steady_clock::duration age) const;
  void begin_sync();
  void end_sync();

  std::string path_;
  Disk& disk_;
  JournalLimits limits_;
  FileDescriptor file_;
  uint64_t end_ = 0;               // of the last whole record
  std::vector<uint64_t> offsets_;  // (n_lines): of its result's record; 0: not done
  std::vector<JournalFacts> facts_;
  size_t n_facts_bound_ = 0;
  uint64_t n_done_ = 0;
  uint64_t n_failed_ = 0;
  uint64_t n_prompt_ = 0;
  uint64_t n_new_ = 0;
  uint64_t n_bytes_cut_ = 0;
  bool is_new_ = false;
  JournalOpening opening_ = JournalOpening::go_on;
  bool broken_ = false;  // a write failed and could not be taken back
  uint64_t n_unsynced_ = 0;
  std::chrono::steady_clock::time_point unsynced_since_{};
  uint64_t n_syncing_ = 0;  // of the unsynced ones, that `syncing_` puts on the disk
  std::chrono::steady_clock::time_point syncing_since_{};
  std::future<int> syncing_;  // 0 or errno; last, so that it is awaited before the file is closed
};

}  // namespace tandem
