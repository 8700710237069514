// A hash index from strings to their place in a list that the owner keeps; open addressing, no copies.
// Called by Vocab and BpeModel. Never owns the strings: hand it the same list on every call.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

class StringIndex {
 public:
  /// Room for `n_strings` without growing.
  void reserve(size_t n_strings) { resize(std::bit_ceil(n_strings + n_strings / 2 + 8)); }

  /// The place of `key` in `strings`, or −1.
  int32_t find(std::string_view key, const std::vector<std::string>& strings) const {
    if (slots_.empty()) return -1;
    const uint32_t tag = tag_of(key);
    for (size_t i = tag & mask();; i = (i + 1) & mask()) {
      const Slot& slot = slots_[i];
      if (slot.place < 0) return -1;
      if (slot.tag == tag && strings[static_cast<size_t>(slot.place)] == key) return slot.place;
    }
  }

  /// Enters strings[place], unless an equal string is in already. Returns the place that the index holds
  /// then.
  int32_t insert(int32_t place, const std::vector<std::string>& strings) {
    if ((n_used_ + 1) * 4 > slots_.size() * 3) resize(slots_.empty() ? 16 : slots_.size() * 2);
    const std::string& key = strings[static_cast<size_t>(place)];
    const uint32_t tag = tag_of(key);
    size_t i = tag & mask();
    for (; slots_[i].place >= 0; i = (i + 1) & mask()) {
      if (slots_[i].tag == tag && strings[static_cast<size_t>(slots_[i].place)] == key)
        return slots_[i].place;
    }
    slots_[i] = {tag, place};
    ++n_used_;
    return place;
  }

 private:
  struct Slot {
    uint32_t tag = 0;
    int32_t place = -1;
  };

  static uint32_t tag_of(std::string_view key) {
    const size_t hash = std::hash<std::string_view>{}(key);
    return static_cast<uint32_t>(hash ^ (hash >> 32));
  }

  size_t mask() const { return slots_.size() - 1; }

  void resize(size_t n_slots) {
    if (n_slots <= slots_.size()) return;
    std::vector<Slot> old(n_slots);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.place < 0) continue;
      size_t i = slot.tag & mask();
      while (slots_[i].place >= 0) i = (i + 1) & mask();
      slots_[i] = slot;
    }
  }

  std::vector<Slot> slots_;  // a power of two of them
  size_t n_used_ = 0;
};

}  // namespace tandem
