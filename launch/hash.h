// Hashes of what is kept and compared: files and texts that nobody forges, so that speed and length matter
// and secrecy does not (XXH3). Used by launch/batch and launch/model_identity.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace tandem {

/// 64 bits of `bytes`; another `seed` gives another function.
uint64_t hash64(std::string_view bytes, uint64_t seed = 0);

struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;
  auto operator<=>(const Hash128&) const = default;
  std::string hex() const;  ///< 32 digits
};
Hash128 hash128(std::string_view bytes);

/// The same over pieces that come one after another.
class Hasher {
 public:
  Hasher();
  void add(std::string_view bytes);
  /// A text and its length, so that the next one can't be taken for its end.
  void add_field(std::string_view text);
  void add_number(uint64_t number);
  Hash128 result() const;

 private:
  struct State;
  struct Free {
    void operator()(State* state) const;
  };
  std::unique_ptr<State, Free> state_;
};

}  // namespace tandem
