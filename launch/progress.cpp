#include "launch/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kInterval = std::chrono::milliseconds(100);
constexpr int kWidth = 30;

}  // namespace

LoadBar::LoadBar(const std::string& mode, int rank)
    : shown_(rank == 0 && (mode == "on" || (mode == "auto" && ::isatty(STDERR_FILENO) == 1))) {}

std::function<void(uint64_t, uint64_t)> LoadBar::callback() {
  return [this](uint64_t done, uint64_t total) {
    if (shown_ && (Clock::now() - last_ >= kInterval || done == total)) show(done, total);
  };
}

void LoadBar::show(uint64_t done, uint64_t total) {
  last_ = Clock::now();
  drawn_ = true;
  const double share = total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
  const double seconds = std::chrono::duration<double>(last_ - start_).count();
  const int filled = static_cast<int>(share * kWidth);
  fmt::print(stderr, "\rloading [{:<{}}] {:3.0f} % {:.2f} GB/s ",
             std::string(static_cast<size_t>(filled), '#'), kWidth, share * 100.0,
             static_cast<double>(done) / 1e9 / std::max(seconds, 1e-3));
  std::fflush(stderr);
}

void LoadBar::finish() {
  if (drawn_) fmt::print(stderr, "\r{:<60}\r", "");
}

}  // namespace tandem
