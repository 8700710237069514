// The bar while a model loads: on a terminal, or where --progress asks for it.
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

}  // namespace tandem
