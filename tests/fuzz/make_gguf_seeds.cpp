// Writes the seeds for fuzz_gguf into a folder: the crafted hostile files, one that is in order, and models
// of little more than a configuration; with --all also those that are too long for a fuzzer. Called by
// scripts/fuzz and tests/e2e/test_bad_input.py.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/hostile_gguf.h"

namespace {

/// A model of one architecture, with one tensor of each way to be split.
tandem::test::GgufWriter small_model(const std::string& architecture) {
  tandem::test::GgufWriter out;
  out.add("general.architecture", architecture);
  const auto number = [&](const std::string& key, uint32_t value) {
    out.add(architecture + "." + key, value);
  };
  number("block_count", 1);
  number("embedding_length", 16);
  number("feed_forward_length", 24);
  number("attention.head_count", 4);
  number("attention.head_count_kv", 2);
  number("attention.key_length", 4);
  number("attention.value_length", 4);
  number("context_length", 64);
  number("rope.dimension_count", 4);
  number("attention.sliding_window", 8);
  out.add(architecture + ".rope.freq_base", 1e4F);
  out.add(architecture + ".rope.scaling.type", "yarn");
  out.add(architecture + ".rope.scaling.factor", 2.0F);
  out.add(architecture + ".attention.layer_norm_rms_epsilon", 1e-5F);
  const std::vector<float> values(16 * 24, 0.5F);
  const auto tensor = [&](const std::string& name, int64_t n_cols, int64_t n_rows) {
    out.add_f32(name, {n_cols, n_rows}, {values.begin(), values.begin() + n_cols * n_rows});
  };
  tensor("token_embd.weight", 16, 10);
  tensor("blk.0.attn_q.weight", 16, 16);
  tensor("blk.0.attn_k.weight", 16, 8);
  tensor("blk.0.attn_output.weight", 16, 16);
  return out;
}

}  // namespace

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
    for (const std::string architecture : {"llama", "qwen2", "gemma3"})
      tandem::test::write_bytes(folder / ("model_" + architecture), small_model(architecture).bytes());
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
