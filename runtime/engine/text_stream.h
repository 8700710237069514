// Turns a sequence's tokens into text as they come: UTF-8 safe, and cut at stop strings.
// Used by the front ends on rank 0.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace tandem {

/// Holds back text that may be the beginning of a stop string until it is known not to be.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops);
  /// The text that may be shown. After a stop string was met: what preceded it, and stopped() is true.
  std::string push(const std::string& text);
  /// What was held back, at the end.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

class TextStream {
 public:
  /// at_start: the tokens begin a text, and don't go on with one.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops, bool at_start)
      : detokenizer_(tokenizer, false, at_start), filter_(std::move(stops)) {}

  std::string push(int32_t token) { return filter_.push(detokenizer_.push(token)); }
  std::string finish() {
    const std::string text = filter_.push(detokenizer_.finish());
    return text + filter_.finish();
  }
  /// A stop string was met: the sequence is to end.
  bool stopped() const { return filter_.stopped(); }

 private:
  StreamingDetokenizer detokenizer_;
  StopFilter filter_;
};

}  // namespace tandem
