// The bars while a model loads and while a batch is worked off: on a terminal, or where --progress asks for
// them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace tandem {

class LoadBar {
 public:
  /// `mode`: on, off or auto (shown where stderr is a terminal and on rank 0 alone).
  LoadBar(const std::string& mode, int rank);
  std::function<void(uint64_t done, uint64_t total)> callback();
  void finish();

 private:
  void show(uint64_t done, uint64_t total);
  bool shown_ = false;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point last_{};
};

/// "0:07", "12:34", "3:00:00", "2 d 3 h".
std::string format_duration(double seconds);

class BatchBar {
 public:
  /// `mode` as LoadBar's. Rank 0 only. Time and speed are counted from here.
  BatchBar(const std::string& mode, const std::string& unit);
  /// `n_done` of `n_total`, of which `n_before` were done when the bar began; `n_tokens` since then.
  void show(uint64_t n_done, uint64_t n_before, uint64_t n_total, int64_t n_tokens);
  void finish();

 private:
  std::string unit_;
  bool shown_ = false;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point last_{};
};

/// The bar's line, without the carriage return.
std::string batch_bar_text(uint64_t n_done, uint64_t n_before, uint64_t n_total, int64_t n_tokens,
                           double seconds, const std::string& unit);

}  // namespace tandem
