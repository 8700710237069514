// The journal cut at every byte, changed at every byte, on a disk that fails at every call: what was put on
// the disk is there again, and nothing is there that was never written. The output, on the same disk.
#include "launch/batch/journal.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <set>

#include "launch/batch/output.h"
#include "ops/core/error.h"
#include "tests/launch/batch/scratch_folder.h"

namespace tandem::test {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kLines = 6;
const JournalFacts kFacts = {{"model", "m"}, {"temp", 0}};
const JournalFacts kLateFacts = {{"backend", "cpu"}};

/// The results in the order in which they come; their lengths differ, one is empty.
std::vector<JournalResult> results() {
  std::vector<JournalResult> all;
  for (const uint64_t line : {2, 0, 5, 1, 4, 3}) {
    all.push_back(
        {.line = line,
         .failed = line == 4,
         .n_prompt = 10 * line,
         .n_new = line,
         .text = line == 5 ? "" : std::string(7 * line + 1, static_cast<char>('a' + line)) + "\xC3\xA4"});
  }
  return all;
}

void expect_is(const Journal& journal, size_t n, const std::vector<JournalResult>& all) {
  ASSERT_EQ(journal.n_done(), n);
  uint64_t n_failed = 0;
  uint64_t n_prompt = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(journal.has(all[i].line), i < n) << i;
    if (i >= n) continue;
    EXPECT_EQ(journal.text(all[i].line), all[i].text);
    n_failed += all[i].failed ? 1 : 0;
    n_prompt += all[i].n_prompt;
  }
  EXPECT_EQ(journal.n_failed(), n_failed);
  EXPECT_EQ(journal.n_prompt(), n_prompt);
}

/// Writes a whole journal; returns its size after every result, the first without any.
std::vector<uint64_t> write_whole(const std::string& path) {
  Journal journal(path, kFacts, kLines);
  journal.bind(kLateFacts);
  std::vector<uint64_t> sizes = {std::filesystem::file_size(path)};
  for (const JournalResult& result : results()) {
    journal.append(result);
    sizes.push_back(std::filesystem::file_size(path));
  }
  return sizes;
}

TEST(BatchJournal, ComesBackWhole) {
  const ScratchFolder folder;
  const std::string path = folder.file("j");
  write_whole(path);
  const Journal journal(path, kFacts, kLines);
  EXPECT_FALSE(journal.is_new());
  EXPECT_EQ(journal.n_bytes_cut(), 0u);
  expect_is(journal, kLines, results());
}

TEST(BatchJournal, CutAtEveryByteKeepsEveryWholeRecord) {
  const ScratchFolder folder;
  const std::string path = folder.file("j");
  const std::vector<uint64_t> sizes = write_whole(path);
  const std::string whole = read_file(path);
  ASSERT_EQ(whole.size(), sizes.back());
  for (size_t size = 0; size < whole.size(); ++size) {
    write_file(path, whole.substr(0, size));
    size_t n = 0;
    while (n < kLines && sizes[n + 1] <= size) ++n;
    {
      Journal journal(path, kFacts, kLines);
      expect_is(journal, n, results());
      if (HasFatalFailure()) FAIL() << "cut at " << size;
      journal.bind(kLateFacts);
      for (size_t i = n; i < kLines; ++i) journal.append(results()[i]);
    }
    ASSERT_EQ(read_file(path), whole) << "cut at " << size;
  }
}

TEST(BatchJournal, ChangedAtEveryByteGivesNothingThatWasNotWritten) {
  const ScratchFolder folder;
  const std::string path = folder.file("j");
  const std::vector<uint64_t> sizes = write_whole(path);
  const std::string whole = read_file(path);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 0x10);
    write_file(path, changed);
    size_t n = 0;
    while (n < kLines && sizes[n + 1] <= at) ++n;
    if (at < 8) {  // the magic: somebody else's file, which is left alone
      EXPECT_THROW(Journal(path, kFacts, kLines), Error);
      EXPECT_EQ(read_file(path), changed);
      continue;
    }
    const Journal journal(path, kFacts, kLines);
    expect_is(journal, n, results());
    if (HasFatalFailure()) FAIL() << "changed at " << at;
  }
}

TEST(BatchJournal, ARecordInAnotherPlaceIsNone) {
  const ScratchFolder folder;
  const std::string path = folder.file("j");
  const std::vector<uint64_t> sizes = write_whole(path);
  const std::string whole = read_file(path);
  // The third record in front of the second, and a record that comes twice.
  write_file(path, whole.substr(0, sizes[1]) + whole.substr(sizes[2], sizes[3] - sizes[2]));
  expect_is(Journal(path, kFacts, kLines), 1, results());
  write_file(path, whole + whole.substr(sizes[5]));
  expect_is(Journal(path, kFacts, kLines), kLines, results());
  // Results of lines that the input doesn't have.
  write_file(path, whole);
  EXPECT_EQ(Journal(path, kFacts, 2).n_done(), 0u);
}

TEST(BatchJournal, ZerosAndPartsOfABeginningAreNoOnes) {
  const ScratchFolder folder;
  for (const std::string& left : {std::string(), std::string("tan"), std::string(100, '\0')}) {
    write_file(folder.file("j"), left);
    const Journal journal(folder.file("j"), kFacts, kLines);
    EXPECT_TRUE(journal.is_new());
  }
  write_file(folder.file("letter"), "Dear all, this is not a journal.\n");
  EXPECT_THROW(Journal(folder.file("letter"), kFacts, kLines), Error);
}

/// The error's code and text.
std::pair<ExitCode, std::string> refusal_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {ExitCode::ok, ""};
}

TEST(BatchJournal, IsBoundToItsFacts) {
  const ScratchFolder folder;
  const std::string path = folder.file("j");
  write_whole(path);
  JournalFacts other = kFacts;
  other["temp"] = 1;
  other["seed"] = 5;
  const auto [code, text] = refusal_of([&] { Journal(path, other, kLines); });
  EXPECT_EQ(code, ExitCode::bad_data);
  EXPECT_NE(text.find("another temp (0 then, 1 now), another seed (none then, 5 now)"), std::string::npos)
      << text;
  EXPECT_EQ(text.find("model"), std::string::npos) << text;
  {
    Journal journal(path, kFacts, kLines);
    const auto [late_code, late_text] = refusal_of([&] { journal.bind({{"backend", "cuda"}}); });
    EXPECT_EQ(late_code, ExitCode::bad_data);
    EXPECT_NE(late_text.find("another backend (cpu then, cuda now)"), std::string::npos) << late_text;
  }
  {
    Journal journal(path, kFacts, kLines, {}, JournalOpening::begin_anew);
    expect_is(journal, kLines, results());  // it is this run's
    journal.bind({{"backend", "cuda"}});
    expect_is(journal, 0, results());
  }
  Journal journal(path, other, kLines, {}, JournalOpening::begin_anew);
  EXPECT_TRUE(journal.is_new());
  expect_is(journal, 0, results());
}

TEST(BatchJournal, HasOneWriter) {
  const ScratchFolder folder;
  const std::string path = folder.file("j");
  std::optional<Journal> first(std::in_place, path, kFacts, kLines);
  EXPECT_EQ(refusal_of([&] { Journal(path, kFacts, kLines); }).first, ExitCode::try_again);
  EXPECT_EQ(refusal_of([&] { Journal(path, kFacts, kLines, {}, JournalOpening::begin_anew); }).first,
            ExitCode::try_again);
  first.reset();
  const Journal second(path, kFacts, kLines);
  EXPECT_FALSE(second.is_new());
}

/// Fails at one of its calls, a write after half of its bytes have got there; then it works again, or never.
class FailingDisk : public Disk {
 public:
  FailingDisk(int good_calls, int error, bool stays_broken)
      : left_(good_calls), error_(error), stays_broken_(stays_broken) {}

  ssize_t write(int fd, const void* bytes, size_t n_bytes) override {
    const bool had_failed = has_failed_;
    if (!fails()) return Disk::write(fd, bytes, n_bytes);
    if (!had_failed) {
      EXPECT_EQ(Disk::write(fd, bytes, n_bytes / 2), static_cast<ssize_t>(n_bytes / 2));
    }
    return refuse();
  }
  int sync(int fd) override { return fails() ? refuse() : Disk::sync(fd); }
  int truncate(int fd, off_t n_bytes) override { return fails() ? refuse() : Disk::truncate(fd, n_bytes); }
  int rename(const char* from, const char* to) override {
    return fails() ? refuse() : Disk::rename(from, to);
  }
  bool has_failed() const { return has_failed_; }

 private:
  bool fails() {
    if (has_failed_) return stays_broken_;
    has_failed_ = left_-- <= 0;
    return has_failed_;
  }
  int refuse() const {
    errno = error_;
    return -1;
  }
  int left_;
  int error_;
  bool stays_broken_;
  bool has_failed_ = false;
};

TEST(BatchJournal, AFailingDiskLosesNothingThatWasOnIt) {
  const ScratchFolder folder;
  size_t n_failures = 0;
  int n_runs = 0;
  std::set<size_t> kept;
  for (const int error : {ENOSPC, EIO}) {
    for (const bool stays_broken : {false, true}) {
      for (int good_calls = 0; good_calls < 40; ++good_calls) {
        const std::string path = folder.file("j" + std::to_string(n_runs++));
        FailingDisk disk(good_calls, error, stays_broken);
        size_t n_synced = 0;
        const auto [code, text] = refusal_of([&] {
          Journal journal(path, kFacts, kLines, {.n_unsynced = 2}, JournalOpening::go_on, disk);
          journal.bind(kLateFacts);
          for (size_t i = 0; i < kLines; ++i) {
            journal.append(results()[i]);
            if (i % 2 == 1) n_synced = i + 1;
          }
        });
        if (code == ExitCode::ok) {
          EXPECT_FALSE(disk.has_failed());
          continue;
        }
        ++n_failures;
        EXPECT_EQ(code, ExitCode::io);
        EXPECT_NE(text.find(std::strerror(error)), std::string::npos) << text;
        Journal journal(path, kFacts, kLines);
        ASSERT_GE(journal.n_done(), n_synced) << good_calls;
        kept.insert(journal.n_done());
        expect_is(journal, journal.n_done(), results());
        journal.bind(kLateFacts);
        for (size_t i = journal.n_done(); i < kLines; ++i) journal.append(results()[i]);
        expect_is(journal, kLines, results());
      }
    }
  }
  EXPECT_GT(n_failures, 40u);
  EXPECT_GT(kept.size(), 4u);  // the failures came at all ages of the journal
}

TEST(BatchJournal, FailsForGoodWhereAWriteCannotBeTakenBack) {
  const ScratchFolder folder;
  for (int good_calls = 4; good_calls < 20; ++good_calls) {
    FailingDisk disk(good_calls, EIO, true);
    const std::string path = folder.file("j" + std::to_string(good_calls));
    std::optional<Journal> journal;
    if (refusal_of([&] {
          journal.emplace(path, kFacts, kLines, JournalLimits{.n_unsynced = 1}, JournalOpening::go_on, disk);
        }).first != ExitCode::ok)
      continue;
    bool failed = false;
    for (const JournalResult& result : results()) {
      const bool fails = refusal_of([&] { journal->append(result); }).first == ExitCode::io;
      EXPECT_TRUE(fails || !failed);
      failed = failed || fails;
    }
  }
}

/// Its syncs end when they are told to, and so as they are told to.
class SlowDisk : public Disk {
 public:
  explicit SlowDisk(int n_allowed) : n_allowed_(n_allowed) {}
  int sync(int fd) override {
    std::unique_lock lock(mutex_);
    ++n_begun_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return n_allowed_ > n_ended_; });
    ++n_ended_;
    if (error_ == 0) return Disk::sync(fd);
    errno = error_;
    return -1;
  }
  void allow(int n, int error = 0) {
    const std::scoped_lock lock(mutex_);
    n_allowed_ += n;
    error_ = error;
    changed_.notify_all();
  }
  void await_begun(int n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return n_begun_ >= n; });
  }
  int n_begun() {
    const std::scoped_lock lock(mutex_);
    return n_begun_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int n_begun_ = 0;
  int n_allowed_;
  int n_ended_ = 0;
  int error_ = 0;
};

TEST(BatchJournal, WorkGoesOnWhileTheDiskTakesItsTime) {
  const ScratchFolder folder;
  SlowDisk disk(2);  // the new file, and its folder
  {
    Journal journal(folder.file("j"), kFacts, kLines, {.n_unsynced = 4, .unsynced_for = 1h},
                    JournalOpening::go_on, disk);
    journal.append(results()[0]);
    journal.sync_if_due();
    EXPECT_EQ(disk.n_begun(), 2);  // of one record nothing is due
    journal.append(results()[1]);
    journal.sync_if_due();
    disk.await_begun(3);
    journal.append(results()[2]);
    journal.sync_if_due();  // comes back, although the disk doesn't
    EXPECT_EQ(disk.n_begun(), 3);
    disk.allow(2);
    journal.append(results()[3]);  // the limit: waits for both
    EXPECT_EQ(disk.n_begun(), 4);
    disk.allow(1);
    journal.append(results()[4]);
    journal.sync();
    EXPECT_EQ(disk.n_begun(), 5);
  }
  const Journal journal(folder.file("j"), kFacts, kLines);
  expect_is(journal, 5, results());
}

/// A journal whose first two records are on their way to the disk.
struct UnderWay {
  ScratchFolder folder;
  SlowDisk disk{2};  ///< the new file, and its folder
  Journal journal;

  UnderWay()
      : journal(folder.file("j"), kFacts, kLines, {.n_unsynced = 4, .unsynced_for = 1h},
                JournalOpening::go_on, disk) {
    journal.append(results()[0]);
    journal.append(results()[1]);
    journal.sync_if_due();
    disk.await_begun(3);
  }
};

TEST(BatchJournal, ACheckpointWaitsForTheSyncUnderWay) {
  UnderWay under_way;
  SlowDisk& disk = under_way.disk;
  Journal& journal = under_way.journal;
  journal.append(results()[2]);  // which the sync under way may have missed
  std::future<void> checkpoint = std::async(std::launch::async, [&] { journal.sync(); });
  EXPECT_EQ(checkpoint.wait_for(20ms), std::future_status::timeout);
  disk.allow(1);
  disk.await_begun(4);
  EXPECT_EQ(checkpoint.wait_for(20ms), std::future_status::timeout);
  disk.allow(1);
  checkpoint.get();
  journal.sync();  // nothing is left to do
  EXPECT_EQ(disk.n_begun(), 4);
}

TEST(BatchJournal, TellsThatTheDiskRefusedMeanwhile) {
  UnderWay under_way;
  SlowDisk& disk = under_way.disk;
  Journal& journal = under_way.journal;
  disk.allow(1, EIO);
  const auto [code, text] = refusal_of([&] { journal.sync(); });
  EXPECT_EQ(code, ExitCode::io);
  EXPECT_NE(text.find(std::strerror(EIO)), std::string::npos) << text;
  EXPECT_EQ(refusal_of([&] { journal.append(results()[2]); }).first, ExitCode::io);  // for good
}

TEST(BatchOutput, AFailingDiskLeavesTheOldOutputAndTheJournal) {
  const ScratchFolder folder;
  write_whole(folder.file("j"));
  const Journal journal(folder.file("j"), kFacts, kLines);
  const std::string out = folder.file("out");
  std::string whole;
  for (uint64_t line = 0; line < kLines; ++line) whole += journal.text(line) + "\n";
  int n_failures = 0;
  for (int good_calls = 0;; ++good_calls) {
    write_file(out, "old\n");
    FailingDisk disk(good_calls, ENOSPC, true);
    const ExitCode code = refusal_of([&] { write_output(out, journal, disk); }).first;
    EXPECT_FALSE(folder.has("out.partial"));
    EXPECT_EQ(code == ExitCode::ok, !disk.has_failed());
    // Renamed, and then the folder could not be put on the disk: both are whole.
    EXPECT_TRUE(read_file(out) == whole || (code == ExitCode::io && read_file(out) == "old\n"));
    if (code == ExitCode::ok) break;
    ++n_failures;
  }
  EXPECT_EQ(n_failures, 4);  // write, sync, rename, the folder's sync
  EXPECT_EQ(read_file(out), whole);
}

TEST(BatchOutput, KnowsItsOwnFromAnothers) {
  const ScratchFolder folder;
  write_file(folder.file("in"), "{\"custom_id\": \"a\"}\n\n{\"custom_id\": \"b\"}\n");
  const BatchInput input(folder.file("in"), InputKind::requests);
  const BatchIdentity identity{{1, 2}, 0};
  const std::string out = folder.file("out");
  EXPECT_EQ(check_output(out, input, identity).state, OutputState::missing);
  const std::string one = fault_line(identity, 1, "a", {0, "x", "y", ""}) + "\n";
  const std::string three = answer_line(identity, 3, "b", BatchRequest{}, 1, {}, {}) + "\n";
  write_file(out, one + three);
  EXPECT_EQ(check_output(out, input, identity).state, OutputState::complete);
  EXPECT_EQ(check_output(out, input, identity).n_failed, 1u);
  EXPECT_EQ(check_output(out, input, {{1, 3}, 0}).state, OutputState::other);
  for (const std::string& wrong : {std::string(), one, three + one, one + three + "\n", one + three + one,
                                   one + three.substr(0, three.size() - 1), one + one}) {
    write_file(out, wrong);
    EXPECT_EQ(check_output(out, input, identity).state, OutputState::other) << wrong;
  }
}

}  // namespace
}  // namespace tandem::test
