#include "launch/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kInterval = std::chrono::milliseconds(100);
constexpr int kWidth = 30;

bool is_wanted(const std::string& mode) {
  return mode == "on" || (mode == "auto" && ::isatty(STDERR_FILENO) == 1);
}

}  // namespace

LoadBar::LoadBar(const std::string& mode, int rank) : shown_(rank == 0 && is_wanted(mode)) {}

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

std::string format_duration(double seconds) {
  const int64_t s = std::lround(seconds);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{} d {} h", s / 86400, s / 3600 % 24);
}

std::string batch_bar_text(uint64_t n_done, uint64_t n_before, uint64_t n_total, int64_t n_tokens,
                           double seconds, const std::string& unit) {
  const double share = n_total == 0 ? 1.0 : static_cast<double>(n_done) / static_cast<double>(n_total);
  const std::string bar(static_cast<size_t>(share * kWidth), '#');
  std::string text = fmt::format("[{:<{}}] {}/{} {}", bar, kWidth, n_done, n_total, unit);
  if (seconds > 0) text += fmt::format(", {:.1f} tokens/s", static_cast<double>(n_tokens) / seconds);
  // What earlier runs did says nothing of how long this one takes.
  if (n_done > n_before && n_done < n_total) {
    const double per_line = seconds / static_cast<double>(n_done - n_before);
    text += fmt::format(", {} left", format_duration(per_line * static_cast<double>(n_total - n_done)));
  }
  return text;
}

BatchBar::BatchBar(const std::string& mode, const std::string& unit) : unit_(unit), shown_(is_wanted(mode)) {}

void BatchBar::show(uint64_t n_done, uint64_t n_before, uint64_t n_total, int64_t n_tokens) {
  const Clock::time_point now = Clock::now();
  if (!shown_ || (now - last_ < kInterval && n_done < n_total)) return;
  last_ = now;
  drawn_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  fmt::print(stderr, "\r{:<79}", batch_bar_text(n_done, n_before, n_total, n_tokens, seconds, unit_));
  std::fflush(stderr);
}

void BatchBar::finish() {
  if (drawn_) fmt::print(stderr, "\r{:<79}\r", "");
}

}  // namespace tandem
