// Writes the seeds for fuzz_gguf into a folder: the crafted hostile files and one that is in order; with
// --all also those that are too long for a fuzzer. Called by scripts/fuzz and
// tests/e2e/test_bad_input.py.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string_view>

#include "tests/support/hostile_gguf.h"

int main(int argc, char** argv) {
  constexpr size_t kMaxSeedBytes = 4096;  // a fuzzer is slow on long inputs
  const bool all = argc == 3 && std::string_view(argv[2]) == "--all";
  if (argc != 2 && !all) {
    std::fprintf(stderr, "usage: make_gguf_seeds FOLDER [--all]\n");
    return 64;
  }
  try {
    const std::filesystem::path folder = argv[1];
    std::filesystem::create_directories(folder);
    tandem::test::write_bytes(folder / "good", tandem::test::good_gguf().bytes());
    for (const auto& file : tandem::test::hostile_ggufs()) {
      if (all || file.bytes.size() <= kMaxSeedBytes)
        tandem::test::write_bytes(folder / file.name, file.bytes);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_gguf_seeds: %s\n", error.what());
    return 74;
  }
  return 0;
}
