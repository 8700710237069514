// Runs the fuzz target of the chat templates on its seeds and on mutations of them.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

#include "tests/fuzz/template_seeds.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer calls it so
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace tandem {
namespace {

void run(const std::string& source) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(source.data()), source.size());
}

std::vector<std::string> seeds() {
  return test::template_seeds(std::string(std::getenv("TANDEM_SOURCE_DIR")) + "/tests/golden/chat_templates");
}

TEST(FuzzTemplate, SeedsPass) {
  const auto all = seeds();
  ASSERT_GT(all.size(), 1000u);
  for (const std::string& seed : all) run(seed);
}

TEST(FuzzTemplate, MutationsPass) {
  constexpr int kRounds = 3000;
  const auto all = seeds();
  std::mt19937 random(20260101);
  const auto pick = [&](size_t n) { return static_cast<size_t>(random()) % n; };
  for (int round = 0; round < kRounds; ++round) {
    std::string source = all[pick(all.size())];
    const std::string& other = all[pick(all.size())];
    for (int i = 0; i <= round % 3 && !source.empty(); ++i) {
      const size_t at = pick(source.size());
      switch (pick(4)) {
        case 0:
          source[at] = static_cast<char>(random());
          break;
        case 1:
          source.erase(at, 1 + pick(8));
          break;
        case 2:
          source.insert(at, other.substr(0, pick(40)));
          break;
        default:
          source.insert(at, source.substr(pick(source.size()), pick(40)));
          break;
      }
    }
    run(source);
  }
}

}  // namespace
}  // namespace tandem
