#include "launch/batch/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "launch/hash.h"
#include "ops/core/check.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "the journal's numbers are little-endian");

constexpr std::string_view kMagic{"tandemB\x02", 8};  // the last byte is the layout's version
constexpr uint64_t kMostZeros = 4096;
constexpr size_t kShownBytes = 80;

/// In front of a result's text.
struct ResultHead {
  uint64_t line = 0;
  uint64_t n_prompt = 0;
  uint64_t n_new = 0;
  uint64_t failed = 0;
};

/// Of a record at `offset`: a record that was moved, cut or lengthened has another.
uint64_t checksum_of(std::string_view payload, uint64_t offset, uint32_t kind) {
  const std::array<uint64_t, 3> place = {offset, payload.size(), kind};
  return hash64(payload, hash64({reinterpret_cast<const char*>(place.data()), sizeof(place)}));
}

template <class T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

/// A record's text for messages, short.
std::string shown(const JournalFacts& facts, const std::string& name) {
  if (!facts.contains(name)) return "none";
  const JournalFacts& value = facts.at(name);
  return (value.is_string() ? value.get<std::string>() : value.dump()).substr(0, kShownBytes);
}

/// What differs, with both values; empty where nothing does.
std::string differences_of(const JournalFacts& theirs, const JournalFacts& mine) {
  std::vector<std::string> differences;
  const auto add = [&](const std::string& name) {
    differences.push_back(
        fmt::format("another {} ({} then, {} now)", name, shown(theirs, name), shown(mine, name)));
  };
  for (const auto& [name, value] : mine.items()) {
    if (!theirs.contains(name) || theirs.at(name) != value) add(name);
  }
  for (const auto& [name, value] : theirs.items()) {
    if (!mine.contains(name)) add(name);
  }
  return fmt::format("{}", fmt::join(differences, ", "));
}

[[noreturn]] void fail_facts(const std::string& path, const std::string& differences) {
  throw Error(ExitCode::bad_data, fmt::format("{}: begun with {}", path, differences),
              "go on as it was begun, give another -o, or --overwrite to begin anew");
}

}  // namespace

Journal::Journal(std::string path, const JournalFacts& facts, uint64_t n_lines, JournalLimits limits,
                 JournalOpening opening, Disk& disk)
    : path_(std::move(path)), disk_(disk), limits_(limits), offsets_(n_lines, 0), opening_(opening) {
  lock();
  open(facts);
}

/// Opens the file and takes the lock. The one who held it may have removed the file meanwhile: then the lock
/// is of a file without a name, and it begins again.
void Journal::lock() {
  while (true) {
    file_ = FileDescriptor(::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
    if (!file_.is_open()) fail_io(path_);
    if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) fail_io(path_);
      throw Error(ExitCode::try_again, path_ + ": another process is working on this output",
                  "wait for its end, or give another -o");
    }
    struct stat held {};
    struct stat named {};
    if (::fstat(file_.get(), &held) != 0) fail_io(path_);
    if (!S_ISREG(held.st_mode)) throw Error(ExitCode::bad_data, path_ + ": not a regular file");
    if (::stat(path_.c_str(), &named) == 0 && named.st_ino == held.st_ino && named.st_dev == held.st_dev) {
      return;
    }
  }
}

void Journal::open(const JournalFacts& facts) {
  const off_t n_bytes = ::lseek(file_.get(), 0, SEEK_END);
  if (n_bytes < 0) fail_io(path_);
  const auto size = static_cast<uint64_t>(n_bytes);
  const std::string magic = read_at(file_.get(), kMagic.size(), 0, path_);
  // What a crash may leave of a journal that had just begun: a part of the magic, or zeros.
  const bool is_begun = magic.size() < kMagic.size() && kMagic.starts_with(magic);
  const bool is_zeros = size < kMostZeros && magic.find_first_not_of('\0') == std::string::npos;
  if (!is_begun && !is_zeros && magic != kMagic && opening_ == JournalOpening::go_on) {
    throw Error(ExitCode::bad_data, path_ + ": this is no journal of this version of tandem batch",
                "finish it with the version that began it, move it away, or give --overwrite");
  }
  if (magic == kMagic) read_back(size);
  n_bytes_cut_ = size - end_;
  const std::string differences = facts_.empty() ? "" : differences_of(facts_.front(), facts);
  if (!differences.empty() && opening_ == JournalOpening::go_on) fail_facts(path_, differences);
  if (facts_.empty() || !differences.empty()) {  // nothing of this run was acknowledged yet
    start(facts);
    return;
  }
  n_facts_bound_ = 1;
  if (n_bytes_cut_ > 0 && disk_.truncate(file_.get(), static_cast<off_t>(end_)) != 0) fail_io(path_);
}

/// Takes all records into the books, up to the end or to the first that isn't whole.
void Journal::read_back(uint64_t size) {
  end_ = kMagic.size();
  while (end_ + sizeof(Head) <= size) {
    Head head;
    const std::string head_bytes = read_at(file_.get(), sizeof(head), static_cast<off_t>(end_), path_);
    if (head_bytes.size() < sizeof(head)) break;
    std::memcpy(&head, head_bytes.data(), sizeof(head));
    if (head.n_bytes > kMostRecordBytes || head.n_bytes > size - end_ - sizeof(head)) break;
    const std::string payload =
        read_at(file_.get(), head.n_bytes, static_cast<off_t>(end_ + sizeof(head)), path_);
    if (payload.size() < head.n_bytes || head.checksum != checksum_of(payload, end_, head.kind)) break;
    if (!take(end_, head, payload)) break;
    end_ += sizeof(head) + head.n_bytes;
  }
}

void Journal::start(const JournalFacts& facts) {
  if (disk_.truncate(file_.get(), 0) != 0) fail_io(path_);
  is_new_ = true;
  offsets_.assign(offsets_.size(), 0);
  end_ = n_done_ = n_failed_ = n_prompt_ = n_new_ = n_unsynced_ = n_syncing_ = 0;
  write_all(disk_, file_.get(), kMagic, path_);
  end_ = kMagic.size();
  write_record(facts_kind, facts.dump());
  facts_ = std::vector<JournalFacts>{facts};
  n_facts_bound_ = 1;
  sync();
  sync_folder_of(disk_, path_);
}

/// Takes a record whose checksum is right into the books; false where it makes no sense.
bool Journal::take(uint64_t offset, const Head& head, const std::string& payload) {
  if (head.kind == facts_kind) {
    facts_.push_back(JournalFacts::parse(payload, nullptr, false));
    return facts_.back().is_object();
  }
  ResultHead result;
  if (head.kind != result_kind || facts_.empty() || payload.size() < sizeof(result)) return false;
  std::memcpy(&result, payload.data(), sizeof(result));
  if (result.line >= offsets_.size() || offsets_[result.line] != 0) return false;
  offsets_[result.line] = offset;
  ++n_done_;
  n_failed_ += result.failed;
  n_prompt_ += result.n_prompt;
  n_new_ += result.n_new;
  return true;
}

void Journal::bind(const JournalFacts& facts) {
  if (n_facts_bound_ < facts_.size()) {
    const std::string differences = differences_of(facts_[n_facts_bound_], facts);
    if (differences.empty()) {
      ++n_facts_bound_;
      return;
    }
    if (opening_ == JournalOpening::go_on) fail_facts(path_, differences);
    const JournalFacts first = facts_.front();
    start(first);
  }
  write_record(facts_kind, facts.dump());
  facts_.push_back(facts);
  ++n_facts_bound_;
  sync();
}

void Journal::write_record(Kind kind, std::string_view payload) {
  require(payload.size() <= kMostRecordBytes, "a journal's record is too long", payload.size());
  if (broken_) throw Error(ExitCode::io, path_ + ": an earlier write failed");
  Head head{static_cast<uint32_t>(payload.size()), kind, checksum_of(payload, end_, kind)};
  std::string record(bytes_of(head));
  record += payload;
  try {
    write_all(disk_, file_.get(), record, path_);
  } catch (const Error&) {
    // Half a record would be cut off at the next opening; better now, where that works.
    broken_ = disk_.truncate(file_.get(), static_cast<off_t>(end_)) != 0;
    throw;
  }
  end_ += record.size();
  if (n_unsynced_++ == 0) unsynced_since_ = std::chrono::steady_clock::now();
}

void Journal::append(const JournalResult& result) {
  require(!has(result.line), "a line has two results", result.line);
  const ResultHead head{result.line, result.n_prompt, result.n_new, result.failed ? 1u : 0u};
  std::string payload(bytes_of(head));
  payload += result.text;
  const uint64_t offset = end_;
  write_record(result_kind, payload);
  offsets_[result.line] = offset;
  ++n_done_;
  n_failed_ += head.failed;
  n_prompt_ += head.n_prompt;
  n_new_ += head.n_new;
  if (has_unsynced(limits_.n_unsynced, limits_.unsynced_for)) sync();
}

/// Whether so many records, or one for so long, are not on the disk yet.
bool Journal::has_unsynced(uint64_t n, std::chrono::steady_clock::duration age) const {
  return n_unsynced_ > 0 && (n_unsynced_ >= n || std::chrono::steady_clock::now() - unsynced_since_ >= age);
}

void Journal::sync_if_due() {
  if (syncing_.valid() && syncing_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) end_sync();
  if (has_unsynced(limits_.n_unsynced, limits_.unsynced_for)) {
    sync();
  } else if (!syncing_.valid() && has_unsynced((limits_.n_unsynced + 1) / 2, limits_.unsynced_for / 2)) {
    begin_sync();
  }
}

/// In a thread of its own, which takes no signals: they are for the others. Where the system has no thread to
/// give, end_sync() does it.
void Journal::begin_sync() {
  n_syncing_ = n_unsynced_;
  syncing_since_ = std::chrono::steady_clock::now();
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  syncing_ = std::async([&disk = disk_, fd = file_.get()] { return disk.sync(fd) == 0 ? 0 : errno; });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Journal::end_sync() {
  if (const int error = syncing_.get(); error != 0) {
    broken_ = true;
    errno = error;
    fail_io(path_);
  }
  n_unsynced_ -= std::exchange(n_syncing_, 0);
  unsynced_since_ = syncing_since_;  // what came since is no older
}

void Journal::sync() {
  if (syncing_.valid()) end_sync();
  if (n_unsynced_ == 0) return;
  // After a failure nobody knows what the disk holds: it is never tried again, the next opening looks.
  if (disk_.sync(file_.get()) != 0) {
    broken_ = true;
    fail_io(path_);
  }
  n_unsynced_ = 0;
}

std::string Journal::text(uint64_t line) const {
  require(has(line), "a line has no result", line);
  const uint64_t offset = offsets_[line];
  Head head;
  const std::string head_bytes = read_at(file_.get(), sizeof(head), static_cast<off_t>(offset), path_);
  std::memcpy(&head, head_bytes.data(), std::min(head_bytes.size(), sizeof(head)));
  std::string payload;
  if (head.n_bytes <= kMostRecordBytes) {
    payload = read_at(file_.get(), head.n_bytes, static_cast<off_t>(offset + sizeof(head)), path_);
  }
  if (head.kind != result_kind || payload.size() < sizeof(ResultHead) || payload.size() != head.n_bytes ||
      head.checksum != checksum_of(payload, offset, head.kind)) {
    throw Error(ExitCode::io, fmt::format("{}: the record at byte {} was changed", path_, offset),
                "start again: what precedes it is kept, the rest is computed anew");
  }
  return payload.substr(sizeof(ResultHead));
}

void Journal::remove() {
  if (::unlink(path_.c_str()) != 0) fail_io(path_);
  sync_folder_of(disk_, path_);
}

}  // namespace tandem
