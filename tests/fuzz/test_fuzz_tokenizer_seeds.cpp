// Runs the fuzz target of the tokenizers on seeds and on mutations of them.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>

#include "tests/fuzz/tokenizer_seeds.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace tandem {
namespace {

void run(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

TEST(FuzzTokenizer, SeedsPass) {
  for (const std::string& seed : test::tokenizer_seeds()) run(seed);
}

TEST(FuzzTokenizer, MutationsPass) {
  constexpr int kRounds = 1500;
  const std::vector<std::string> seeds = test::tokenizer_seeds();
  std::mt19937 random(20260109);
  for (int round = 0; round < kRounds; ++round) {
    std::string bytes = seeds[static_cast<size_t>(round) % seeds.size()];
    for (int i = 0; i <= round % 4; ++i) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 3);
          break;
        default:
          bytes.insert(at, bytes.substr(random() % bytes.size(), 1 + random() % 8));
          break;
      }
    }
    run(bytes);
  }
}

}  // namespace
}  // namespace tandem
