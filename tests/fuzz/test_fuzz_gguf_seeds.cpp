// Runs the fuzz target of the GGUF reader on its seeds and on mutations of them.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>

#include "tests/support/hostile_gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace tandem {
namespace {

void run(const test::Bytes& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

TEST(FuzzGguf, SeedsPass) {
  run(test::good_gguf().bytes());
  for (const test::HostileGguf& file : test::hostile_ggufs()) {
    SCOPED_TRACE(file.name);
    run(file.bytes);
  }
}

TEST(FuzzGguf, MutationsPass) {
  constexpr int kRounds = 5000;
  const test::Bytes good = test::good_gguf().bytes();
  std::mt19937 random(20260101);
  for (int round = 0; round < kRounds; ++round) {
    test::Bytes bytes = good;
    for (int i = 0; i <= round % 4; ++i) {
      const size_t at = random() % (bytes.size() - 8);
      switch (random() % 4) {
        case 0:
          test::patch(bytes, at, static_cast<uint8_t>(random()));
          break;
        case 1:
          test::patch(bytes, at, static_cast<uint32_t>(random() % 64));
          break;
        case 2:
          test::patch(bytes, at, uint64_t{1} << random() % 64);
          break;
        default:
          bytes.erase(bytes.begin() + static_cast<ptrdiff_t>(at));
          break;
      }
    }
    run(bytes);
  }
}

}  // namespace
}  // namespace tandem
