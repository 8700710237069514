// make_template_seeds GOLDEN OUT: writes the seeds of fuzz_template into the folder OUT.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>

#include "tests/fuzz/template_seeds.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: make_template_seeds GOLDEN OUT\n", stderr);
    return 64;
  }
  try {
    const std::filesystem::path out = argv[2];
    std::filesystem::create_directories(out);
    size_t n = 0;
    for (const std::string& seed : tandem::test::template_seeds(argv[1])) {
      std::ofstream(out / std::to_string(n++), std::ios::binary) << seed;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_template_seeds: %s\n", error.what());
    return 74;
  }
  return 0;
}
