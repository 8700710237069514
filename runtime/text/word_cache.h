// Remembers where the ids of a word stand in the output of this same call, so that a word that comes again is
// copied instead of merged again. Called by bpe and spm. One a call: never shared between threads.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace tandem {

class WordCache {
 public:
  /// `text_bytes`: of the text to come. `ids` must only grow while this lives; words must outlive it.
  WordCache(size_t text_bytes, std::vector<int32_t>& ids)
      : ids_(ids), slots_(std::clamp(std::bit_ceil(text_bytes / 8 + 1), kMinSlots, kMaxSlots)) {}

  /// Appends the ids of `word`, calling `encode(word)` to append them where they aren't remembered.
  template <class Encode>
  void append(std::string_view word, const Encode& encode) {
    if (word.size() > kMaxWordBytes) return encode(word);
    Slot& slot = slots_[std::hash<std::string_view>{}(word) & (slots_.size() - 1)];
    const size_t first = ids_.size();
    if (slot.word == word) {
      ids_.resize(first + slot.n_ids);  // first, since it may move what is copied
      std::copy_n(ids_.begin() + slot.first, slot.n_ids, ids_.begin() + static_cast<ptrdiff_t>(first));
      return;
    }
    encode(word);
    slot = {word, static_cast<ptrdiff_t>(first), ids_.size() - first};
  }

 private:
  static constexpr size_t kMinSlots = 1;
  static constexpr size_t kMaxSlots = 8192;
  static constexpr size_t kMaxWordBytes = 48;

  struct Slot {
    std::string_view word;  // words are never empty, so this matches none
    ptrdiff_t first = 0;
    size_t n_ids = 0;
  };

  std::vector<int32_t>& ids_;
  std::vector<Slot> slots_;
};

}  // namespace tandem
