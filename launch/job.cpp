#include "launch/job.h"

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

}  // namespace

Job::Job() : launcher_(launcher_info()) {
  install_signal_handlers();
  set_job(rank(), nullptr);
}

Job::~Job() = default;

int Job::rank() const {
  return comm_ ? comm_->rank() : std::max(0, launcher_.rank);
}

Communicator& Job::start() {
  if (comm_) return *comm_;
  note_phase("start");
  if (launcher_.present) {
    mpi_ = std::make_unique<MpiEnvironment>();
    comm_ = make_mpi_communicator(*mpi_);
  } else {
    comm_ = make_single_communicator();
  }
  set_log_rank(rank());
  watchdog_ = std::make_unique<Watchdog>(*comm_);
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
