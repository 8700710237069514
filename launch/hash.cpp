#include "launch/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

namespace tandem {

uint64_t hash64(std::string_view bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::string Hash128::hex() const {
  return fmt::format("{:016x}{:016x}", high, low);
}

Hash128 hash128(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

struct Hasher::State {
  XXH3_state_t* xxh = nullptr;
};

void Hasher::Free::operator()(State* state) const {
  XXH3_freeState(state->xxh);
  delete state;
}

Hasher::Hasher() : state_(new State{XXH3_createState()}) {
  if (state_->xxh == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state_->xxh);
}

void Hasher::add(std::string_view bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

void Hasher::add_field(std::string_view text) {
  add_number(text.size());
  add(text);
}

void Hasher::add_number(uint64_t number) {
  add({reinterpret_cast<const char*>(&number), sizeof(number)});
}

Hash128 Hasher::result() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return {hash.high64, hash.low64};
}

}  // namespace tandem
