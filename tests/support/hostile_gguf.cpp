#include "tests/support/hostile_gguf.h"

#include <limits>

namespace tandem::test {
namespace {

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
constexpr size_t kVersionOffset = 4;
constexpr size_t kTensorCountOffset = 8;
constexpr size_t kKeyCountOffset = 16;
// Behind a key.
constexpr size_t kTypeAt = 0;
constexpr size_t kValueAt = 4;
constexpr size_t kElementTypeAt = 4;
constexpr size_t kCountAt = 8;
// Behind a tensor's name, which has two dimensions.
constexpr size_t kDimensionCountAt = 0;
constexpr size_t kDimensionAt = 4;
constexpr size_t kTensorTypeAt = 4 + 2 * 8;
constexpr size_t kOffsetAt = 4 + 2 * 8 + 4;

/// The good file with one number changed, `at` bytes behind the string `text`.
template <class T>
Bytes patched(std::string_view text, size_t at, T number) {
  Bytes bytes = good_gguf().bytes();
  patch(bytes, offset_behind(bytes, text) + at, number);
  return bytes;
}

/// The good file with one number of its head changed.
template <class T>
Bytes patched_head(size_t at, T number) {
  Bytes bytes = good_gguf().bytes();
  patch(bytes, at, number);
  return bytes;
}

/// The value bytes of an array whose count is a claim.
Bytes array_claim(uint32_t element_type, uint64_t count, size_t n_bytes) {
  Bytes bytes;
  append_number(bytes, element_type);
  append_number(bytes, count);
  bytes.resize(bytes.size() + n_bytes, std::byte{1});
  return bytes;
}

Bytes text_bytes(std::string_view text) {
  Bytes bytes;
  append_bytes(bytes, std::as_bytes(std::span(text)));
  return bytes;
}

void add_heads(std::vector<HostileGguf>& files) {
  files.push_back({"empty", {}, "the header: needs 4 bytes at offset 0, but the file ends at 0"});
  files.push_back(
      {"magic", patched_head(0, uint32_t{0x12345678}), "the header: not a GGUF file (magic 0x12345678"});
  files.push_back(
      {"magic-big-endian", patched_head(0, uint32_t{0x47475546}), "the header: a big-endian GGUF file"});
  files.push_back(
      {"magic-ggjt", patched_head(0, uint32_t{0x67676a74}), "the header: a GGML file from before GGUF"});
  files.push_back({"lfs-pointer", text_bytes("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
                   "the header: not a GGUF file but, it seems, a Git LFS pointer"});
  files.push_back({"big-endian-2", patched_head(kVersionOffset, uint32_t{0x02000000}),
                   "the header: a big-endian GGUF file (version 0x02000000)"});
  files.push_back({"big-endian-3", patched_head(kVersionOffset, uint32_t{0x03000000}),
                   "the header: a big-endian GGUF file (version 0x03000000)"});
  files.push_back(
      {"version-0", patched_head(kVersionOffset, uint32_t{0}), "the header: GGUF version 0 is unknown"});
  files.push_back({"version-1", patched_head(kVersionOffset, uint32_t{1}),
                   "the header: GGUF version 1 is not supported"});
  files.push_back(
      {"version-4", patched_head(kVersionOffset, uint32_t{4}), "the header: GGUF version 4 is unknown"});
  const std::string keys = "the header's number of keys: ";
  files.push_back(
      {"keys-2e64", patched_head(kKeyCountOffset, kHuge), keys + "is 18446744073709551615, at most"});
  files.push_back(
      {"keys-negative-32", patched_head(kKeyCountOffset, uint64_t{0xffffffff}), keys + "is 4294967295"});
  files.push_back(
      {"keys-unbacked", patched_head(kKeyCountOffset, uint64_t{65536}), keys + "claims 65536 elements"});
  files.push_back({"keys-one-more", patched_head(kKeyCountOffset, uint64_t{9}),
                   "tensor 1 of 3: needs 562949953421312 bytes"});
  const std::string tensors = "the header's number of tensors: ";
  files.push_back(
      {"tensors-2e64", patched_head(kTensorCountOffset, kHuge), tensors + "is 18446744073709551615"});
  // Times the size of a C struct, this wraps to a small allocation.
  files.push_back({"tensors-wrap", patched_head(kTensorCountOffset, uint64_t{1} << 58),
                   tensors + "is 288230376151711744"});
  files.push_back(
      {"tensors-unbacked", patched_head(kTensorCountOffset, uint64_t{65536}), tensors + "claims 65536"});
  files.push_back({"tensors-one-more", patched_head(kTensorCountOffset, uint64_t{4}), "tensor 4 of 4: "});
}

void add_keys(std::vector<HostileGguf>& files) {
  // A key's length stands 8 bytes before its text.
  const auto with_key_length = [](uint64_t length) {
    const std::string_view key = "general.architecture";
    Bytes bytes = good_gguf().bytes();
    patch(bytes, offset_behind(bytes, key) - key.size() - 8, length);
    return bytes;
  };
  files.push_back(
      {"key-length-2e64", with_key_length(kHuge), "key 1 of 8: needs 18446744073709551615 bytes"});
  files.push_back(
      {"key-length-negative", with_key_length(uint64_t{1} << 63), "key 1 of 8: needs 9223372036854775808"});
  files.push_back(
      {"key-length-1gib", with_key_length(1 << 30), "key 1 of 8: needs 1073741824 bytes at offset 32"});
  files.push_back({"key-empty", GgufWriter().add<uint64_t>("", 1).bytes(), "key 1 of 1: has an empty name"});
  files.push_back({"key-64kib", GgufWriter().add<uint8_t>(std::string(65536, 'k'), 1).bytes(),
                   "key 1 of 1: has a name of 65536 bytes, at most 65535 are allowed"});
  files.push_back({"key-twice", good_gguf().add<uint32_t>("llama.block_count", 2).bytes(),
                   "key 'llama.block_count': occurs twice"});
  files.push_back(
      {"alignment-twice",
       good_gguf().add<uint32_t>("general.alignment", 32).add<uint32_t>("general.alignment", 64).bytes(),
       "key 'general.alignment': occurs twice"});
  GgufWriter names;
  for (int i = 0; i < 300; ++i) names.add<uint8_t>(std::string(60000, 'k') + std::to_string(i), 1);
  files.push_back(
      {"keys-16mib", names.bytes(), "key 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"});
  files.push_back({"key-escapes", GgufWriter().add_raw("a\x1b[2Jb\nc\x9f\xff", 99, {}).bytes(),
                   "key 'a\\x1b[2Jb\\nc\\x9f\\xff': unknown value type 99"});
}

void add_values(std::vector<HostileGguf>& files) {
  const std::string_view name = "general.architecture";
  const std::string place = "key 'general.architecture': ";
  files.push_back(
      {"string-2e64", patched(name, kValueAt, kHuge), place + "needs 18446744073709551615 bytes"});
  files.push_back(
      {"string-wrap", patched(name, kValueAt, kHuge - 7), place + "needs 18446744073709551608 bytes"});
  files.push_back(
      {"string-1gib", patched(name, kValueAt, uint64_t{1} << 30), place + "needs 1073741824 bytes"});
  files.push_back({"type-13", patched(name, kTypeAt, uint32_t{13}), place + "unknown value type 13"});
  files.push_back(
      {"type-negative", patched(name, kTypeAt, int32_t{-1}), place + "unknown value type 4294967295"});
  files.push_back({"bool-2", patched("tokenizer.ggml.add_bos_token", kValueAt, uint8_t{2}),
                   "key 'tokenizer.ggml.add_bos_token': a bool with the value 2"});
  const std::string_view tokens = "tokenizer.ggml.tokens";
  const std::string tokens_place = "key 'tokenizer.ggml.tokens': ";
  files.push_back({"array-type-13", patched(tokens, kElementTypeAt, uint32_t{13}),
                   tokens_place + "unknown value type 13"});
  files.push_back({"array-type-negative", patched(tokens, kElementTypeAt, int32_t{-1}),
                   tokens_place + "unknown value type 4294967295"});
  files.push_back({"array-nested", patched(tokens, kElementTypeAt, kGgufArrayTypeId),
                   tokens_place + "an array of arrays"});
  files.push_back({"strings-2e64", patched(tokens, kCountAt, kHuge),
                   tokens_place + "claims 18446744073709551615 elements"});
  files.push_back({"strings-wrap", patched(tokens, kCountAt, uint64_t{1} << 61),
                   tokens_place + "claims 2305843009213693952"});
  files.push_back(
      {"strings-100m", patched(tokens, kCountAt, uint64_t{100'000'000}), tokens_place + "claims 100000000"});
  files.push_back({"strings-element-2e64", patched(tokens, kCountAt + 8, kHuge),
                   tokens_place + "needs 18446744073709551615"});
  for (uint32_t type = 0; type <= 12; ++type) {
    if (type == kGgufArrayTypeId) continue;
    for (const uint64_t count :
         {kHuge, (uint64_t{1} << 62) + 1, (uint64_t{1} << 61) + 1, uint64_t{1} << 32, uint64_t{9}}) {
      const std::string id = std::to_string(type) + "-" + std::to_string(count);
      // Nine elements: one more than are there, in a file that ends behind them.
      const size_t n_bytes = type == 8                ? 0
                             : type == 7 || type <= 1 ? 8
                             : type <= 3              ? 16
                             : type <= 6              ? 32
                                                      : 64;
      files.push_back({"array-" + id,
                       GgufWriter().add_raw("k", kGgufArrayTypeId, array_claim(type, count, n_bytes)).bytes(),
                       "key 'k': claims " + std::to_string(count) + " elements of at least"});
    }
  }
  Bytes wrong = array_claim(7, 3, 2);
  append_number(wrong, uint8_t{255});
  files.push_back({"array-bool-255", GgufWriter().add_raw("k", kGgufArrayTypeId, wrong).bytes(),
                   "key 'k': a bool with the value 255"});
}

void add_alignments(std::vector<HostileGguf>& files) {
  const std::string place = "key 'general.alignment': ";
  const auto with = [](auto value) { return good_gguf().add("general.alignment", value).bytes(); };
  files.push_back({"alignment-0", with(uint32_t{0}), place + "is 0, must be a power of two"});
  files.push_back({"alignment-3", with(uint32_t{3}), place + "is 3, must be a power of two"});
  files.push_back({"alignment-33", with(uint32_t{33}), place + "is 33, must be a power of two"});
  // Padding rounds up to this and wraps where it is done in 32 bits, or next to the largest size.
  files.push_back({"alignment-max", with(~uint32_t{0}), place + "is 4294967295, must be a power of two"});
  files.push_back({"alignment-2gib",
                   GgufWriter()
                       .add<uint32_t>("general.alignment", uint32_t{1} << 31)
                       .add_f32("t", {8}, std::vector<float>(8, 1.5F))
                       .bytes(),
                   "tensor 't': its 32 bytes at offset 0 reach past the end of the file (0 bytes of data)"});
  files.push_back({"alignment-u64", with(uint64_t{32}), place + "is u64, must be u32"});
  files.push_back({"alignment-i32", with(int32_t{-32}), place + "is i32, must be u32"});
  files.push_back({"alignment-u8", with(uint8_t{32}), place + "is u8, must be u32"});
  files.push_back({"alignment-f32", with(32.0F), place + "is f32, must be u32"});
  files.push_back({"alignment-string", with(std::string("32")), place + "is string, must be u32"});
  files.push_back({"alignment-array", good_gguf().add_array<uint32_t>("general.alignment", {32}).bytes(),
                   place + "is array of u32, must be u32"});
}

void add_shapes(std::vector<HostileGguf>& files) {
  const std::string_view name = "token_embd.weight";
  const std::string place = "tensor 'token_embd.weight': ";
  for (const uint32_t n : {5U, 8U, 9U, 0x7fffffffU, 0xffffffffU}) {
    files.push_back({"dimensions-" + std::to_string(n), patched(name, kDimensionCountAt, n),
                     place + "has " + std::to_string(n) + " dimensions, at most 4 are known"});
  }
  const int64_t lowest = std::numeric_limits<int64_t>::min();
  const int64_t highest = std::numeric_limits<int64_t>::max();
  files.push_back({"dimension-zero", patched(name, kDimensionAt, int64_t{0}), place + "dimension 0 is 0"});
  files.push_back(
      {"dimension-negative", patched(name, kDimensionAt + 8, int64_t{-1}), place + "dimension 1 is -1"});
  files.push_back({"dimension-lowest", patched(name, kDimensionAt, lowest),
                   place + "dimension 0 is -9223372036854775808"});
  files.push_back({"dimension-highest", patched(name, kDimensionAt, highest),
                   place + "the product of its dimensions overflows"});
  const auto with = [](const std::vector<int64_t>& shape, TensorType type) {
    return GgufWriter().add_raw_tensor("t", shape, static_cast<uint32_t>(type), 0).bytes();
  };
  const std::string overflow = "tensor 't': the product of its dimensions overflows 64 bits";
  const int64_t big = int64_t{1} << 32;
  files.push_back({"product-2e64", with({big, big}, TensorType::i8), overflow});
  files.push_back({"product-2e63", with({big, big / 2}, TensorType::i8), overflow});
  files.push_back(
      {"product-2e64-of-4", with({1 << 16, 1 << 16, 1 << 16, 1 << 16}, TensorType::f32), overflow});
  files.push_back({"product-bytes", with({big, big / 8}, TensorType::f32), overflow});
  files.push_back({"product-row-bytes", with({int64_t{1} << 62}, TensorType::f64), overflow});
  files.push_back({"product-row-blocks", with({int64_t{1} << 62, 4, 4}, TensorType::q4_0), overflow});
  files.push_back({"product-elements", with({int64_t{1} << 62, 3}, TensorType::q2_k), overflow});
  const std::string block = "tensor 't': a row of ";
  files.push_back({"row-of-33", with({33, 2}, TensorType::q4_0),
                   block + "33 elements is no whole number of Q4_0 blocks of 32"});
  files.push_back({"row-of-1", with({1, 256}, TensorType::q6_k),
                   block + "1 elements is no whole number of Q6_K blocks of 256"});
  files.push_back({"row-of-none", with({}, TensorType::q8_0),
                   block + "1 elements is no whole number of Q8_0 blocks of 32"});
}

void add_tensors(std::vector<HostileGguf>& files) {
  const std::string_view name = "token_embd.weight";
  const std::string place = "tensor 'token_embd.weight': ";
  files.push_back({"tensor-type-negative", patched(name, kTensorTypeAt, int32_t{-1}),
                   place + "unknown tensor type 4294967295"});
  files.push_back(
      {"tensor-type-1000", patched(name, kTensorTypeAt, uint32_t{1000}), place + "unknown tensor type 1000"});
  files.push_back({"tensor-type-removed", patched(name, kTensorTypeAt, uint32_t{4}),
                   place + "tensor type 4 (Q4_2) is no longer in use"});
  files.push_back({"offset-misaligned", patched(name, kOffsetAt, uint64_t{31}),
                   place + "its offset 31 is no multiple of the alignment 32"});
  files.push_back({"offset-2e64", patched(name, kOffsetAt, kHuge - 31),
                   place + "its 32 bytes at offset 18446744073709551584 reach past"});
  files.push_back({"offset-far", patched(name, kOffsetAt, uint64_t{1} << 40),
                   place + "its 32 bytes at offset 1099511627776 reach past"});
  files.push_back({"size-past-end", patched(name, kDimensionAt + 8, int64_t{1000}),
                   place + "its 16000 bytes at offset 0 reach past the end"});
  Bytes cut = good_gguf().add_f32("last", {8}, std::vector<float>(8, 1.5F)).bytes();
  cut.pop_back();
  files.push_back({"last-byte-missing", cut,
                   "tensor 'last': its 32 bytes at offset 160 reach past the end of the file (191 bytes"});
  GgufWriter no_data;
  no_data.add_raw_tensor("t", {8}, 0, 0);
  files.push_back({"no-data", no_data.bytes(), "tensor 't': its 32 bytes at offset 0 reach past"});
  files.push_back({"overlap-same", good_gguf().add_raw_tensor("twin", {8}, 0, 0).bytes(), "tensor '"});
  files.push_back({"overlap-part", good_gguf().add_raw_tensor("thief", {16}, 0, 64).bytes(),
                   "tensor 'thief': its bytes overlap those of tensor 'blk.0.attn_q.weight'"});
  files.push_back({"tensor-twice", good_gguf().add_raw_tensor("token_embd.weight", {1}, 0, 160).bytes(),
                   place + "occurs twice"});
  files.push_back({"tensor-empty-name", GgufWriter().add_raw_tensor("", {1}, 0, 0).bytes(),
                   "tensor 1 of 1: has an empty name"});
  files.push_back({"tensor-long-name", GgufWriter().add_raw_tensor(std::string(256, 't'), {1}, 0, 0).bytes(),
                   "tensor 1 of 1: has a name of 256 bytes, at most 255 are allowed"});
  files.push_back({"tensor-name-2e64",
                   [&] {
                     Bytes bytes = good_gguf().bytes();
                     patch(bytes, offset_behind(bytes, name) - name.size() - 8, kHuge);
                     return bytes;
                   }(),
                   "tensor 1 of 3: needs 18446744073709551615 bytes"});
  GgufWriter sum;  // four of these add up to 2^64
  for (const char* each : {"a", "b", "c", "d"}) sum.add_raw_tensor(each, {int64_t{1} << 60}, 0, 0);
  files.push_back(
      {"sum-2e64", sum.bytes(), "tensor 'a': its 4611686018427387904 bytes at offset 0 reach past"});
  GgufWriter chain;
  for (uint64_t i = 0; i < 4; ++i)
    chain.add_raw_tensor("t" + std::to_string(i), {int64_t{1} << 60}, 0, i << 62);
  files.push_back(
      {"sum-chain", chain.bytes(), "tensor 't0': its 4611686018427387904 bytes at offset 0 reach past"});
}

}  // namespace

GgufWriter good_gguf() {
  const std::vector<float> embedding = {1, 2, 3, 4, 5, 6, 7, 8};
  Bytes query(18 * 2 * 2);
  for (size_t i = 0; i < query.size(); ++i) query[i] = static_cast<std::byte>(i);
  GgufWriter writer;
  writer.add("general.architecture", "llama").add<uint32_t>("llama.block_count", 1);
  writer.add<float>("llama.rope.freq_base", 10000.0F).add<bool>("tokenizer.ggml.add_bos_token", true);
  writer.add_array<std::string>("tokenizer.ggml.tokens", {"<unk>", "a", "a longer token than fits inline"});
  writer.add_array<float>("tokenizer.ggml.scores", {0.0F, -1.0F, -2.5F});
  writer.add_array<int32_t>("tokenizer.ggml.token_type", {2, 1, 1})
      .add_array<bool>("some.flags", {true, false});
  writer.add_f32("token_embd.weight", {4, 2}, embedding);
  writer.add_tensor("blk.0.attn_q.weight", TensorType::q4_0, {64, 2}, query);
  writer.add_f32("output_norm.weight", {4}, std::span(embedding).first(4));
  return writer;
}

std::vector<HostileGguf> hostile_ggufs() {
  std::vector<HostileGguf> files;
  add_heads(files);
  add_keys(files);
  add_values(files);
  add_alignments(files);
  add_shapes(files);
  add_tensors(files);
  return files;
}

}  // namespace tandem::test
