// Model configurations: what a file says, what contradicts itself, and the rotations against their published
// formulas.
#include "runtime/model/config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/core/error.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

class Config : public ::testing::Test {
 protected:
  ModelConfig read(const GgufWriter& writer) {
    writer.write(folder_.file("c.gguf"));
    return ModelConfig::from_gguf(GgufFile::open(folder_.file("c.gguf")));
  }
  /// A minimal llama header, to which a test adds or from which it leaves out.
  static GgufWriter header(const std::string& architecture = "llama", const std::string& without = "") {
    GgufWriter out;
    out.add("general.architecture", architecture);
    const auto number = [&](const std::string& key, uint32_t value) {
      if (key != without) out.add(architecture + "." + key, value);
    };
    number("block_count", 2);
    number("embedding_length", 64);
    number("feed_forward_length", 96);
    number("attention.head_count", 4);
    number("attention.head_count_kv", 2);
    number("context_length", 4096);
    const std::vector<float> table(64 * 10, 0.5f);
    out.add_f32("token_embd.weight", {64, 10}, table);
    return out;
  }
  std::string error_of(const GgufWriter& writer) {
    try {
      read(writer);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_data);
      return error.what();
    }
    return "no error";
  }
  TemporaryFolder folder_;
};

TEST_F(Config, ReadsLlama) {
  const ModelConfig config = read(header());
  EXPECT_EQ(config.n_layers, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.n_kv_heads, 2);
  EXPECT_EQ(config.n_vocab, 10);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.rope.style, RopeStyle::adjacent);
  EXPECT_FLOAT_EQ(config.attention_scale, 0.25f);
}

TEST_F(Config, ReadsGemma3) {
  GgufWriter writer = header("gemma3");
  writer.add("gemma3.attention.sliding_window", uint32_t{512});
  writer.add("gemma3.rope.freq_base", 1e6f);
  const ModelConfig config = read(writer);
  EXPECT_TRUE(config.is_local(0));
  EXPECT_FALSE(config.is_local(5));
  EXPECT_EQ(config.window_of(4), 512);
  EXPECT_DOUBLE_EQ(config.rope_of(5).base, 1e6);
  EXPECT_DOUBLE_EQ(config.rope_of(0).base, 1e4);
  EXPECT_FLOAT_EQ(config.embedding_scale, 8.0f);
  EXPECT_EQ(config.rope.style, RopeStyle::halves);
}

TEST_F(Config, NamesWhatIsWrong) {
  GgufWriter unknown;
  unknown.add("general.architecture", "mamba");
  EXPECT_NE(error_of(unknown).find("'mamba' is not supported (known: llama, qwen2, gemma3)"),
            std::string::npos);
  for (const char* key : {"block_count", "embedding_length", "feed_forward_length", "attention.head_count"}) {
    EXPECT_NE(error_of(header("llama", key)).find(std::string("llama.") + key), std::string::npos) << key;
  }
  EXPECT_NE(error_of(header().add("llama.rope.scaling.type", "ntk")).find("rope.scaling.type"),
            std::string::npos);
  EXPECT_NE(error_of(header().add("llama.rope.freq_base", -3.0f)).find("rope.freq_base"), std::string::npos);
  EXPECT_NE(error_of(header().add("llama.rope.dimension_count", uint32_t{7})).find("rope.dimension_count"),
            std::string::npos);
  EXPECT_NE(error_of(header().add("llama.expert_count", uint32_t{4})).find("expert_used_count"),
            std::string::npos);
  EXPECT_NE(error_of(header().add("llama.attention.layer_norm_rms_epsilon", 0.0f)).find("epsilon"),
            std::string::npos);
  EXPECT_NE(error_of(header().add("llama.attention.value_length", uint32_t{8})).find("16 and values of 8"),
            std::string::npos);
  EXPECT_NE(
      error_of(header("llama", "attention.head_count_kv").add("llama.attention.head_count_kv", uint32_t{3}))
          .find("multiple"),
      std::string::npos);
  for (const uint32_t n_heads : {7u, 1000u}) {
    GgufWriter uneven = header("llama", "attention.head_count");
    EXPECT_NE(
        error_of(uneven.add("llama.attention.head_count", n_heads)).find("attention.key_length is missing"),
        std::string::npos)
        << n_heads;
  }
  EXPECT_EQ(
      error_of(header("llama", "rope.scaling.type").add("llama.rope.scaling.type", "a\n\x1b[2J")).find('\n'),
      std::string::npos);
  EXPECT_NE(error_of(header("llama", "block_count").add("llama.block_count", uint32_t{4000000000u}))
                .find("block_count"),
            std::string::npos);
}

TEST_F(Config, CountsGivenALayerMustAgree) {
  const std::vector<int32_t> same = {4, 4};
  const std::vector<int32_t> different = {4, 2};
  EXPECT_EQ(
      read(header("llama", "attention.head_count").add_array("llama.attention.head_count", same)).n_heads, 4);
  EXPECT_NE(
      error_of(header("llama", "attention.head_count").add_array("llama.attention.head_count", different))
          .find("layer to layer"),
      std::string::npos);
}

TEST(Rope, PlainAndLinear) {
  RopeConfig rope;
  rope.n_rot = 8;
  rope.base = 10000.0;
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, {}).inverse[2], std::pow(10000.0, -0.5));
  rope.scaling = RopeScaling::linear;
  rope.factor = 4.0;
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, {}).inverse[0], 0.25);
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, {2.0f, 1.0f, 1.0f, 1.0f}).inverse[0], 0.125);
}

TEST(Rope, YarnKeepsFastAndStretchesSlowDimensions) {
  RopeConfig rope;
  rope.n_rot = 128;
  rope.base = 10000.0;
  rope.scaling = RopeScaling::yarn;
  rope.factor = 16.0;
  rope.original_context = 4096;
  const RopeFrequencies yarn = rope_frequencies(rope, {});
  EXPECT_DOUBLE_EQ(yarn.inverse[0], 1.0);
  EXPECT_NEAR(yarn.inverse[63] * std::pow(10000.0, 126.0 / 128.0), 1.0 / 16.0, 1e-12);
  EXPECT_NEAR(yarn.magnitude, 1.0 + 0.1 * std::log(16.0), 1e-12);
}

}  // namespace
}  // namespace tandem::test
