#include "runtime/engine/text_stream.h"

#include <algorithm>
#include <utility>

namespace tandem {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopFilter::push(const std::string& text) {
  if (stopped_) return {};
  held_ += text;
  size_t found = std::string::npos;
  for (const std::string& stop : stops_) found = std::min(found, held_.find(stop));
  if (found != std::string::npos) {
    stopped_ = true;
    std::string shown = held_.substr(0, found);
    held_.clear();
    return shown;
  }
  // The longest end of the text that begins some stop string stays back.
  size_t n_back = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > n_back; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) {
        n_back = n;
        break;
      }
    }
  }
  std::string shown = held_.substr(0, held_.size() - n_back);
  held_.erase(0, held_.size() - n_back);
  return shown;
}

std::string StopFilter::finish() {
  return stopped_ ? std::string() : std::exchange(held_, {});
}

}  // namespace tandem
