// Writes the seeds for fuzz_gguf into a folder: the crafted hostile files and one that is in order.
// Called by scripts/fuzz_gguf.
#include <cstdio>
#include <exception>
#include <filesystem>

#include "tests/support/hostile_gguf.h"

int main(int argc, char** argv) {
  constexpr size_t kMaxSeedBytes = 4096;  // a fuzzer is slow on long inputs
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_gguf_seeds FOLDER\n");
    return 64;
  }
  try {
    const std::filesystem::path folder = argv[1];
    std::filesystem::create_directories(folder);
    tandem::test::write_bytes(folder / "good", tandem::test::good_gguf().bytes());
    for (const auto& file : tandem::test::hostile_ggufs()) {
      if (file.bytes.size() <= kMaxSeedBytes) tandem::test::write_bytes(folder / file.name, file.bytes);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_gguf_seeds: %s\n", error.what());
    return 74;
  }
  return 0;
}
