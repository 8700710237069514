// Writes the seeds for fuzz_tokenizer into a folder. Called by scripts/fuzz.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <span>

#include "tests/fuzz/tokenizer_seeds.h"
#include "tests/support/gguf_writer.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_tokenizer_seeds FOLDER\n");
    return 64;
  }
  try {
    const std::filesystem::path folder = argv[1];
    std::filesystem::create_directories(folder);
    int number = 0;
    for (const std::string& seed : tandem::test::tokenizer_seeds()) {
      tandem::test::write_bytes(folder / std::to_string(number++), std::as_bytes(std::span(seed)));
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_tokenizer_seeds: %s\n", error.what());
    return 74;
  }
  return 0;
}
