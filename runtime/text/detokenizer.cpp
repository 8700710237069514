// StreamingDetokenizer: text as it becomes complete.
#include "runtime/text/tokenizer.h"
#include "runtime/text/utf8.h"

namespace tandem {

std::string StreamingDetokenizer::push(int32_t id) {
  if (at_start_) {
    pending_ += tokenizer_.decode({&id, 1}, show_special_);
    at_start_ = tokenizer_.token_bytes(id, show_special_).empty();
  } else {
    pending_ += tokenizer_.token_bytes(id, show_special_);
  }
  return take(false);
}

std::string StreamingDetokenizer::finish() {
  return take(true);
}

std::string StreamingDetokenizer::take(bool is_end) {
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const size_t n_valid = valid_utf8_prefix(rest);
    text.append(rest.substr(0, n_valid));
    rest.remove_prefix(n_valid);
    if (rest.empty()) break;
    const Utf8Step step = utf8_step(rest);
    if (step.truncated && !is_end) break;
    text.append(kReplacement);
    rest.remove_prefix(step.n_bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return text;
}

}  // namespace tandem
