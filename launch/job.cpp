#include "launch/job.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <new>

#include "comm/process.h"
#include "launch/log.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr int kEndLimitS = 10;

std::string line_of(const Error& error) {
  return error.hint().empty() ? error.what() : std::string(error.what()) + " (" + error.hint() + ")";
}

/// The settings of `mine` that `others` lacks, as text.
std::string lacking(const std::vector<std::string>& mine, const std::vector<std::string>& others) {
  std::string text;
  for (const std::string& setting : mine) {
    if (std::find(others.begin(), others.end(), setting) == others.end())
      text += (text.empty() ? "" : " ") + setting;
  }
  return text.empty() ? "nothing" : text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\0', begin);
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

/// Throws the same Error{usage} on every rank where their settings differ.
void require_agreement(const std::vector<std::string>& settings, Communicator& communicator) {
  if (communicator.size() == 1) return;
  std::string mine;
  for (const std::string& setting : settings) mine += setting + '\0';
  const std::vector<std::string> all = communicator.gather_text(mine);
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    const std::vector<std::string> first = lines_of(all[0]);
    const std::vector<std::string> other = lines_of(all[r]);
    throw Error(ExitCode::usage,
                fmt::format("the ranks were not told the same: rank 0 {}, rank {} {}", lacking(first, other),
                            r, lacking(other, first)),
                "give flags, or hand the variables on: mpirun -x NAME");
  }
}

}  // namespace

Job::Job() : launcher_(launcher_info()) {
  install_signal_handlers();
  set_job(rank(), nullptr);
}

Job::~Job() = default;

int Job::rank() const {
  return comm_ ? comm_->rank() : std::max(0, launcher_.rank);
}

Communicator& Job::start(const std::vector<std::string>& settings) {
  note_phase("start");
  if (launcher_.present) {
    mpi_ = std::make_unique<MpiEnvironment>();
    comm_ = make_mpi_communicator(*mpi_);
  } else {
    comm_ = make_single_communicator();
  }
  set_log_rank(rank());
  watchdog_ = std::make_unique<Watchdog>(*comm_);
  require_agreement(settings, *comm_);
  return *comm_;
}

void Job::end(int exit_code) {
  note_phase("end");
  std::fflush(stdout);
  watchdog_.reset();
  // From here on nobody watches, and MPI_Finalize waits for all ranks: it gets a limit.
  if (mpi_) arm_last_exit(kEndLimitS, exit_code == 0 ? static_cast<int>(ExitCode::unavailable) : exit_code);
  comm_.reset();
  mpi_.reset();
  alarm(0);
}

void Job::fail(const std::exception& error) {
  std::fflush(stdout);
  int code = static_cast<int>(ExitCode::internal);
  std::string line = std::string("internal error: ") + error.what();
  if (const auto* fault = dynamic_cast<const Error*>(&error)) {
    code = static_cast<int>(fault->code());
    line = line_of(*fault);
  } else if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    code = static_cast<int>(ExitCode::unavailable);
    line = "out of memory";
  }
  if (!comm_ && rank() != 0) {
    // Before the job has started, all ranks see the same flags and files, and rank 0 speaks. It gets the time
    // to: a launcher kills the ranks that are left when the first one ends.
    usleep(250'000);
    _exit(code);
  }
  end_all_ranks(code, line);
}

}  // namespace tandem
