#include "launch/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <string>

namespace tandem {
namespace {

struct LogState {
  int verbosity = 0;
  int rank = 0;
};

LogState& log_state() {
  static LogState state;
  return state;
}

void apply(const LogState& state) {
  spdlog::level::level_enum level = spdlog::level::info;
  if (state.rank != 0 || state.verbosity < 0) level = spdlog::level::warn;
  if (state.verbosity > 0) level = spdlog::level::debug;
  const std::string who = state.rank == 0 ? "" : "rank " + std::to_string(state.rank) + ": ";
  static const auto logger = [] {
    auto made = spdlog::stderr_logger_st("tandem");
    spdlog::set_default_logger(made);
    return made;
  }();
  logger->set_level(level);
  logger->set_pattern("tandem: " + who + "%v");
  logger->flush_on(spdlog::level::debug);
}

}  // namespace

void set_up_log(int verbosity) {
  log_state().verbosity = verbosity;
  apply(log_state());
}

void set_log_rank(int rank) {
  log_state().rank = rank;
  apply(log_state());
}

}  // namespace tandem
