// The seeds of fuzz_template. See template_seeds.h.
#include "tests/fuzz/template_seeds.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace tandem::test {

namespace {

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("can't read " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

std::vector<std::string> template_seeds(const std::string& folder) {
  std::vector<std::string> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".jinja") seeds.push_back(read_text(entry.path()));
  }
  const auto golden = nlohmann::json::parse(read_text(std::filesystem::path(folder) / "language.json"));
  for (const auto& entry : golden.at("cases")) seeds.push_back(entry.at("source"));
  for (const auto& source : golden.at("stricter")) seeds.push_back(source);
  std::sort(seeds.begin(), seeds.end());  // not in the order of the folder
  return seeds;
}

}  // namespace tandem::test
