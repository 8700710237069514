#include "runtime/gguf/part.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "runtime/gguf/cursor.h"
#include "runtime/gguf/printable.h"

namespace tandem {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMaxKeyBytes = 65535;       // the format's own limit
constexpr uint64_t kMaxTensorNameBytes = 255;  // the format says 64; some converters write longer ones
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;         // in the file: a key of one byte, its type, a value
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;  // in the file: a name of one byte, no dimensions
constexpr uint64_t kKeyMemoryBytes = 128;                // about what a map node takes
constexpr uint64_t kTensorMemoryBytes = 384;             // with its name, shape and places in the indices

struct Header {
  uint32_t version = 0;
  uint64_t n_tensors = 0;
  uint64_t n_keys = 0;
};

[[noreturn]] void fail_magic(const GgufCursor& cursor, uint32_t magic) {
  switch (magic) {
    case 0x47475546:
      cursor.fail("a big-endian GGUF file (magic FUGG)", "convert it to little-endian");
    case 0x67676d6c:  // "lmgg", "tjgg", … as the predecessors wrote them
    case 0x67676d66:
    case 0x67676a74:
    case 0x67676c61:
      cursor.fail("a GGML file from before GGUF", "convert it to GGUF");
    case 0x73726576:  // "vers"
      cursor.fail("not a GGUF file but, it seems, a Git LFS pointer", "fetch the file itself: git lfs pull");
    default:
      break;
  }
  cursor.fail(fmt::format("not a GGUF file (magic {:#010x} instead of {:#010x})", magic, kMagic));
}

Header read_header(GgufCursor& cursor) {
  const auto magic = cursor.read_number<uint32_t>();
  if (magic != kMagic) fail_magic(cursor, magic);
  Header header;
  header.version = cursor.read_number<uint32_t>();
  if (header.version != 0 && (header.version & 0xffff) == 0) {
    cursor.fail(fmt::format("a big-endian GGUF file (version {:#010x})", header.version),
                "convert it to little-endian");
  }
  if (header.version == 1) cursor.fail("GGUF version 1 is not supported", "convert the model again");
  if (header.version < 2 || header.version > 3) {
    cursor.fail(fmt::format("GGUF version {} is unknown (2 and 3 are known)", header.version));
  }
  header.n_tensors = cursor.read_number<uint64_t>();
  header.n_keys = cursor.read_number<uint64_t>();
  return header;
}

bool is_known(uint32_t type) {
  return type <= static_cast<uint32_t>(GgufType::f64);
}

bool read_bool(GgufCursor& cursor) {
  const auto byte = cursor.read_number<uint8_t>();
  if (byte > 1) cursor.fail(fmt::format("a bool with the value {}", byte));
  return byte == 1;
}

GgufArray read_array(GgufCursor& cursor) {
  const auto type = cursor.read_number<uint32_t>();
  const auto count = cursor.read_number<uint64_t>();
  if (!is_known(type)) cursor.fail(fmt::format("an array of the unknown value type {}", type));
  GgufArray array;
  array.element_type = GgufType{type};
  switch (array.element_type) {
    case GgufType::u8:
      array.values = cursor.read_numbers<uint8_t>(count);
      break;
    case GgufType::i8:
      array.values = cursor.read_numbers<int8_t>(count);
      break;
    case GgufType::u16:
      array.values = cursor.read_numbers<uint16_t>(count);
      break;
    case GgufType::i16:
      array.values = cursor.read_numbers<int16_t>(count);
      break;
    case GgufType::u32:
      array.values = cursor.read_numbers<uint32_t>(count);
      break;
    case GgufType::i32:
      array.values = cursor.read_numbers<int32_t>(count);
      break;
    case GgufType::u64:
      array.values = cursor.read_numbers<uint64_t>(count);
      break;
    case GgufType::i64:
      array.values = cursor.read_numbers<int64_t>(count);
      break;
    case GgufType::f32:
      array.values = cursor.read_numbers<float>(count);
      break;
    case GgufType::f64:
      array.values = cursor.read_numbers<double>(count);
      break;
    case GgufType::string:
      array.values = cursor.read_strings(count);
      break;
    case GgufType::boolean: {
      std::vector<uint8_t> bytes = cursor.read_numbers<uint8_t>(count);
      const auto wrong = std::find_if(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte > 1; });
      if (wrong != bytes.end()) cursor.fail(fmt::format("a bool with the value {}", *wrong));
      array.values = std::move(bytes);
      break;
    }
    case GgufType::array:
      cursor.fail("an array of arrays, which is not supported");
  }
  return array;
}

GgufValue read_value(GgufCursor& cursor) {
  const auto type = cursor.read_number<uint32_t>();
  if (!is_known(type)) cursor.fail(fmt::format("unknown value type {}", type));
  GgufValue value;
  value.type = GgufType{type};
  switch (value.type) {
    case GgufType::u8:
      value.value = uint64_t{cursor.read_number<uint8_t>()};
      break;
    case GgufType::u16:
      value.value = uint64_t{cursor.read_number<uint16_t>()};
      break;
    case GgufType::u32:
      value.value = uint64_t{cursor.read_number<uint32_t>()};
      break;
    case GgufType::u64:
      value.value = cursor.read_number<uint64_t>();
      break;
    case GgufType::i8:
      value.value = int64_t{cursor.read_number<int8_t>()};
      break;
    case GgufType::i16:
      value.value = int64_t{cursor.read_number<int16_t>()};
      break;
    case GgufType::i32:
      value.value = int64_t{cursor.read_number<int32_t>()};
      break;
    case GgufType::i64:
      value.value = cursor.read_number<int64_t>();
      break;
    case GgufType::f32:
      value.value = double{cursor.read_number<float>()};
      break;
    case GgufType::f64:
      value.value = cursor.read_number<double>();
      break;
    case GgufType::boolean:
      value.value = read_bool(cursor);
      break;
    case GgufType::string:
      value.value = cursor.read_string();
      break;
    case GgufType::array:
      value.value = read_array(cursor);
      break;
  }
  return value;
}

GgufMetadata read_metadata(GgufCursor& cursor, uint64_t n_keys) {
  cursor.set_place("the header's number of keys");
  cursor.expect_elements(n_keys, kMinKeyBytes, kKeyMemoryBytes);
  GgufMetadata metadata;
  for (uint64_t i = 0; i < n_keys; ++i) {
    cursor.set_place(fmt::format("key {} of {}", i + 1, n_keys));
    std::string key = cursor.read_string();
    if (key.empty()) cursor.fail("has an empty name");
    if (key.size() > kMaxKeyBytes) cursor.fail(fmt::format("has a name of {} bytes", key.size()));
    cursor.set_place("key " + quoted(key));
    if (metadata.find(key) != metadata.end()) cursor.fail("occurs twice");
    GgufValue value = read_value(cursor);
    metadata.emplace(std::move(key), std::move(value));
  }
  return metadata;
}

uint64_t read_alignment(GgufCursor& cursor, const GgufMetadata& metadata) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefaultAlignment;
  cursor.set_place("key 'general.alignment'");
  if (found->second.type != GgufType::u32) {
    cursor.fail(fmt::format("is {}, must be u32", type_name(found->second)));
  }
  const uint64_t alignment = std::get<uint64_t>(found->second.value);
  if (!std::has_single_bit(alignment)) {
    cursor.fail(fmt::format("is {}, must be a power of two", alignment));
  }
  return alignment;
}

/// Formats that files were once written in and that no program reads any more; empty for all other ids.
std::string_view removed_type_name(uint32_t id) {
  switch (id) {
    case 4:
      return "Q4_2";
    case 5:
      return "Q4_3";
    case 31:
      return "Q4_0_4_4";
    case 32:
      return "Q4_0_4_8";
    case 33:
      return "Q4_0_8_8";
    case 36:
      return "IQ4_NL_4_4";
    case 37:
      return "IQ4_NL_4_8";
    case 38:
      return "IQ4_NL_8_8";
    default:
      return {};
  }
}

const TensorTypeInfo& read_tensor_type(GgufCursor& cursor) {
  const auto id = cursor.read_number<uint32_t>();
  if (const TensorTypeInfo* info = find_tensor_type(id)) return *info;
  const std::string_view removed = removed_type_name(id);
  if (removed.empty()) cursor.fail(fmt::format("unknown tensor type {}", id));
  cursor.fail(fmt::format("tensor type {} ({}) is no longer in use", id, removed),
              "quantise the model again");
}

std::vector<int64_t> read_shape(GgufCursor& cursor) {
  const auto n_dimensions = cursor.read_number<uint32_t>();
  if (n_dimensions > kMaxDimensions) {
    cursor.fail(fmt::format("has {} dimensions, at most {} are known", n_dimensions, kMaxDimensions));
  }
  std::vector<int64_t> shape(n_dimensions);
  for (uint32_t i = 0; i < n_dimensions; ++i) {
    shape[i] = cursor.read_number<int64_t>();
    if (shape[i] <= 0) cursor.fail(fmt::format("dimension {} is {}", i, shape[i]));
  }
  return shape;
}

/// Bytes of a tensor, all products checked.
uint64_t count_bytes(const GgufCursor& cursor, const std::vector<int64_t>& shape,
                     const TensorTypeInfo& type) {
  const int64_t n_cols = shape.empty() ? 1 : shape[0];
  if (n_cols % type.block_elements != 0) {
    cursor.fail(fmt::format("a row of {} elements is no whole number of {} blocks of {}", n_cols, type.name,
                            type.block_elements));
  }
  int64_t n_bytes = 0;
  int64_t n_elements = n_cols;
  bool overflows = __builtin_mul_overflow(n_cols / type.block_elements, type.block_bytes, &n_bytes);
  for (size_t i = 1; i < shape.size(); ++i) {
    overflows |= __builtin_mul_overflow(n_bytes, shape[i], &n_bytes);
    overflows |= __builtin_mul_overflow(n_elements, shape[i], &n_elements);
  }
  if (overflows) cursor.fail("the product of its dimensions overflows 64 bits");
  return static_cast<uint64_t>(n_bytes);
}

/// Where the tensor data may lie in the file.
struct DataRegion {
  uint64_t begin = 0;
  uint64_t n_bytes = 0;
};

GgufTensor read_tensor(GgufCursor& cursor, uint64_t alignment) {
  GgufTensor tensor;
  tensor.name = cursor.read_string();
  if (tensor.name.empty()) cursor.fail("has an empty name");
  if (tensor.name.size() > kMaxTensorNameBytes) {
    cursor.fail(fmt::format("has a name of {} bytes, at most {} are allowed", tensor.name.size(),
                            kMaxTensorNameBytes));
  }
  cursor.set_place("tensor " + quoted(tensor.name));
  tensor.shape = read_shape(cursor);
  const TensorTypeInfo& type = read_tensor_type(cursor);
  tensor.type = type.type;
  tensor.n_bytes = count_bytes(cursor, tensor.shape, type);
  tensor.file_offset = cursor.read_number<uint64_t>();  // still within the data
  if (tensor.file_offset % alignment != 0) {
    cursor.fail(
        fmt::format("its offset {} is no multiple of the alignment {}", tensor.file_offset, alignment));
  }
  return tensor;
}

/// Moves offsets from "within the data" to "within the file" and checks that the bytes are there.
void place_tensors(GgufCursor& cursor, uint64_t alignment, uint64_t file_bytes,
                   std::vector<GgufTensor>& tensors) {
  // No wrap: the position is a file's, the alignment has 32 bits.
  const uint64_t begin = (cursor.position() + alignment - 1) & ~(alignment - 1);
  const uint64_t n_data_bytes = file_bytes > begin ? file_bytes - begin : 0;
  for (GgufTensor& tensor : tensors) {
    if (tensor.file_offset > n_data_bytes || tensor.n_bytes > n_data_bytes - tensor.file_offset) {
      cursor.set_place("tensor " + quoted(tensor.name));
      cursor.fail(fmt::format("its {} bytes at offset {} reach past the end of the file ({} bytes of data)",
                              tensor.n_bytes, tensor.file_offset, n_data_bytes),
                  "the file is damaged or its download is incomplete");
    }
    tensor.file_offset += begin;
  }
}

void refuse_overlaps(GgufCursor& cursor, const std::vector<GgufTensor>& tensors) {
  std::vector<const GgufTensor*> by_offset;
  by_offset.reserve(tensors.size());
  for (const GgufTensor& tensor : tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->file_offset < b->file_offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const GgufTensor& before = *by_offset[i - 1];
    if (by_offset[i]->file_offset - before.file_offset >= before.n_bytes) continue;
    cursor.set_place("tensor " + quoted(by_offset[i]->name));
    cursor.fail("its bytes overlap those of tensor " + quoted(before.name));
  }
}

}  // namespace

GgufPart read_gguf_part(const ByteSource& source) {
  GgufCursor cursor(source);
  const Header header = read_header(cursor);
  GgufPart part;
  part.version = header.version;
  part.n_bytes = source.size();
  part.metadata = read_metadata(cursor, header.n_keys);
  const uint64_t alignment = read_alignment(cursor, part.metadata);

  cursor.set_place("the header's number of tensors");
  cursor.expect_elements(header.n_tensors, kMinTensorBytes, kTensorMemoryBytes);
  part.tensors.reserve(header.n_tensors);
  std::unordered_set<std::string_view> names;
  for (uint64_t i = 0; i < header.n_tensors; ++i) {
    cursor.set_place(fmt::format("tensor {} of {}", i + 1, header.n_tensors));
    part.tensors.push_back(read_tensor(cursor, alignment));
    if (!names.insert(part.tensors.back().name).second) cursor.fail("occurs twice");
  }
  place_tensors(cursor, alignment, source.size(), part.tensors);
  refuse_overlaps(cursor, part.tensors);
  return part;
}

}  // namespace tandem
