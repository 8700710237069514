// make_batch_seeds OUT: writes the seeds of fuzz_batch into the folder OUT.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>

#include "tests/fuzz/batch_seeds.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: make_batch_seeds OUT\n", stderr);
    return 64;
  }
  try {
    const std::filesystem::path out = argv[1];
    std::filesystem::create_directories(out);
    size_t n = 0;
    for (const std::string& seed : tandem::test::batch_seeds()) {
      std::ofstream(out / std::to_string(n++), std::ios::binary) << seed;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_batch_seeds: %s\n", error.what());
    return 74;
  }
  return 0;
}
