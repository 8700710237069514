#include "launch/job.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <new>
#include <nlohmann/json.hpp>

#include "comm/process.h"
#include "launch/log.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

using nlohmann::json;

constexpr int kEndLimitS = 10;
constexpr int kPatienceUs = 250'000;  // for rank 0 to speak

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

}  // namespace

/// A rank as the others see it when the job starts.
struct Job::Told {
  int code = 0;       ///< it can't begin, and would end with this, or 0
  std::string fault;  ///< why not
  std::vector<std::string> settings;

  std::string text() const {
    return json{code, fault, settings}.dump(-1, ' ', false, json::error_handler_t::replace);
  }
  static Told of(const std::string& text) {
    const json told = json::parse(text);
    return {told.at(0), told.at(1), told.at(2)};
  }
};

/// Throws the same Error on every rank where one can't begin, or was told something else than rank 0.
void Job::agree(const Told& mine) {
  std::vector<Told> all;
  for (const std::string& text : comm_->gather_text(mine.text())) all.push_back(Told::of(text));
  for (size_t r = 0; r < all.size(); ++r) {
    const std::string who = r == 0 ? "" : fmt::format("rank {}: ", r);
    if (all[r].code != 0) throw Error(static_cast<ExitCode>(all[r].code), who + all[r].fault);
  }
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r].settings == all[0].settings) continue;
    throw Error(
        ExitCode::usage,
        fmt::format("the ranks were not told the same: rank 0 {}, rank {} {}",
                    lacking(all[0].settings, all[r].settings), r, lacking(all[r].settings, all[0].settings)),
        "give flags, or hand the variables on: mpirun -x NAME");
  }
}

Job::Job() : launcher_(launcher_info()) {
  install_signal_handlers();
  set_job(rank(), nullptr);
}

Job::~Job() = default;

int Job::rank() const {
  return comm_ ? comm_->rank() : std::max(0, launcher_.rank);
}

Communicator& Job::start(const std::vector<std::string>& settings) {
  bring_up();
  agree({0, {}, settings});
  return *comm_;
}

void Job::bring_up() {
  note_phase("start");
  would_start_ = false;  // once at most, whatever comes of it
  if (launcher_.present) {
    mpi_ = std::make_unique<MpiEnvironment>();
    comm_ = make_mpi_communicator(*mpi_);
  } else {
    comm_ = make_single_communicator();
  }
  set_log_rank(rank());
  watchdog_ = std::make_unique<Watchdog>(*comm_);
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

/// Before the job has started, all ranks mostly fail alike, and one is to speak; or one was told something
/// else, and the others wait for it. So it comes up first, where it would have. Replaces code and line by the
/// common ones.
void Job::tell_others(int& code, std::string& line) {
  const auto leave_it_to_rank_0 = [&] {
    if (rank() == 0) return;
    usleep(kPatienceUs);  // a launcher kills the ranks that are left when the first one ends
    _exit(code);
  };
  if (!would_start_) return leave_it_to_rank_0();
  arm_last_exit(kEndLimitS, code);  // the others may be gone
  try {
    bring_up();
  } catch (const std::exception&) {
    return leave_it_to_rank_0();
  }
  try {
    agree({code, line, {}});
  } catch (const Error& common) {
    code = static_cast<int>(common.code());
    line = line_of(common);
  }
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
  if (!comm_ && launcher_.present) tell_others(code, line);
  end_all_ranks(code, line);
}

}  // namespace tandem
