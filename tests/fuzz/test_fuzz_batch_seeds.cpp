// Runs the fuzz target of a batch's lines on its seeds and on mutations of them.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <variant>

#include "launch/batch/request.h"
#include "tests/fuzz/batch_seeds.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer calls it so
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace tandem {
namespace {

void run(const std::string& line) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(line.data()), line.size());
}

TEST(FuzzBatch, SeedsPass) {
  size_t n_requests = 0;
  for (const std::string& seed : test::batch_seeds()) {
    run(seed);
    n_requests += std::holds_alternative<BatchRequest>(parse_batch_line(seed, {}).what) ? 1 : 0;
  }
  EXPECT_GE(n_requests, 9u);  // most seeds get through the whole parser
}

TEST(FuzzBatch, MutationsPass) {
  constexpr int kRounds = 20'000;
  const auto all = test::batch_seeds();
  std::mt19937 random(20261127);
  const auto pick = [&](size_t n) { return static_cast<size_t>(random()) % n; };
  for (int round = 0; round < kRounds; ++round) {
    std::string line = all[pick(all.size())];
    const std::string& other = all[pick(all.size())];
    for (int i = 0; i <= round % 3 && !line.empty(); ++i) {
      const size_t at = pick(line.size());
      switch (pick(4)) {
        case 0:
          line[at] = static_cast<char>(random());
          break;
        case 1:
          line.erase(at, 1 + pick(8));
          break;
        case 2:
          line.insert(at, other.substr(0, pick(40)));
          break;
        default:
          line[at] = "{}[]\",:0-e.tfn\\"[pick(15)];
          break;
      }
    }
    run(line);
  }
}

}  // namespace
}  // namespace tandem
