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
constexpr uint64_t kDefaultAlignment = 32;
// The format's own limit is 65535 bytes a key; 64 a tensor's name, but some converters write longer ones.
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxTensorNameBytes = 255;
// Far above any model (a thousand tensors, a hundred keys), and low enough that a header which turns out
// wrong at its end has cost less than 64 MiB.
constexpr uint64_t kMaxKeys = 1 << 16;
constexpr uint64_t kMaxTensors = 1 << 16;
constexpr uint64_t kMaxAllKeyBytes = 1 << 24;
// In the file: a key of one byte, its type and a value; a tensor's name of one byte and no dimensions.
constexpr uint64_t kMinKeyFileBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorFileBytes = 8 + 1 + 4 + 4 + 8;
// In memory, about: a map's node; a tensor with its name, shape and places in the indices.
constexpr uint64_t kKeyMemoryBytes = 128;
constexpr uint64_t kTensorMemoryBytes = 384;
constexpr uint64_t kBoolMemoryBytes = 16;

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

/// Refuses a number of `things` in the header that is above `limit` or that the file or the budget can't
/// hold.
void expect_count(GgufCursor& cursor, std::string_view things, uint64_t count, uint64_t limit,
                  uint64_t file_bytes, uint64_t memory_bytes) {
  cursor.set_place(fmt::format("the header's number of {}", things));
  if (count > limit) cursor.fail(fmt::format("is {}, at most {} are allowed", count, limit));
  cursor.expect_elements(count, file_bytes, memory_bytes);
}

GgufType read_type(GgufCursor& cursor) {
  const auto type = cursor.read_number<uint32_t>();
  if (type > static_cast<uint32_t>(GgufType::f64)) cursor.fail(fmt::format("unknown value type {}", type));
  return GgufType{type};
}

bool read_bool(GgufCursor& cursor) {
  const auto byte = cursor.read_number<uint8_t>();
  if (byte > 1) cursor.fail(fmt::format("a bool with the value {}", byte));
  return byte == 1;
}

GgufArray read_array(GgufCursor& cursor) {
  GgufArray array;
  array.element_type = read_type(cursor);
  const auto count = cursor.read_number<uint64_t>();
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
  GgufValue value;
  value.type = read_type(cursor);
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

/// Bytes of one value of a type with a fixed size; 0 for strings and arrays.
uint64_t value_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    case GgufType::string:
    case GgufType::array:
      break;
  }
  return 0;
}

void skip_array(GgufCursor& cursor) {
  const GgufType type = read_type(cursor);
  const auto count = cursor.read_number<uint64_t>();
  if (type == GgufType::array) {
    cursor.fail("an array of arrays, which is not supported");
  } else if (type == GgufType::string) {
    cursor.skip_strings(count);
  } else {
    // Each bool is looked at, so they are charged dearer than they are: a claim of millions ends soon.
    const bool is_bool = type == GgufType::boolean;
    cursor.expect_elements(count, value_bytes(type), is_bool ? kBoolMemoryBytes : value_bytes(type));
    if (is_bool) {
      for (uint64_t i = 0; i < count; ++i) read_bool(cursor);
    } else {
      cursor.skip(count * value_bytes(type));
    }
  }
}

void skip_value(GgufCursor& cursor) {
  const GgufType type = read_type(cursor);
  switch (type) {
    case GgufType::boolean:
      read_bool(cursor);
      break;
    case GgufType::string:
      cursor.skip_string();
      break;
    case GgufType::array:
      skip_array(cursor);
      break;
    default:
      cursor.skip(value_bytes(type));
  }
}

std::string read_key(GgufCursor& cursor, uint64_t index, uint64_t n_keys) {
  cursor.set_place(fmt::format("key {} of {}", index + 1, n_keys));
  std::string key = cursor.read_string();
  if (key.empty()) cursor.fail("has an empty name");
  if (key.size() > kMaxKeyBytes) {
    cursor.fail(fmt::format("has a name of {} bytes, at most {} are allowed", key.size(), kMaxKeyBytes));
  }
  cursor.set_place("key " + in_quotes(key));
  return key;
}

uint64_t read_alignment(GgufCursor& cursor) {
  const GgufValue value = read_value(cursor);
  if (value.type != GgufType::u32) cursor.fail(fmt::format("is {}, must be u32", type_name(value)));
  const uint64_t alignment = std::get<uint64_t>(value.value);
  if (!std::has_single_bit(alignment)) {
    cursor.fail(fmt::format("is {}, must be a power of two", alignment));
  }
  return alignment;
}

/// Checks all of the metadata and keeps none, so that a file which is wrong further on costs little memory.
/// Returns the alignment of the tensor data.
uint64_t skim_metadata(GgufCursor& cursor, uint64_t n_keys) {
  expect_count(cursor, "keys", n_keys, kMaxKeys, kMinKeyFileBytes, kKeyMemoryBytes);
  uint64_t alignment = kDefaultAlignment;
  uint64_t n_name_bytes = 0;
  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < n_keys; ++i) {
    std::string key = read_key(cursor, i, n_keys);
    n_name_bytes += key.size();
    if (n_name_bytes > kMaxAllKeyBytes) {
      cursor.fail(fmt::format("the names of the keys take more than {} MiB", kMaxAllKeyBytes >> 20));
    }
    if (key == "general.alignment") {
      alignment = read_alignment(cursor);
    } else {
      skip_value(cursor);
    }
    if (!names.insert(std::move(key)).second) cursor.fail("occurs twice");
  }
  return alignment;
}

GgufMetadata read_metadata(GgufCursor& cursor, uint64_t n_keys) {
  GgufMetadata metadata;
  for (uint64_t i = 0; i < n_keys; ++i) {
    std::string key = read_key(cursor, i, n_keys);
    metadata.insert_or_assign(std::move(key), read_value(cursor));
  }
  return metadata;
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

GgufTensor read_tensor(GgufCursor& cursor, uint64_t alignment) {
  GgufTensor tensor;
  tensor.name = cursor.read_string();
  if (tensor.name.empty()) cursor.fail("has an empty name");
  if (tensor.name.size() > kMaxTensorNameBytes) {
    cursor.fail(fmt::format("has a name of {} bytes, at most {} are allowed", tensor.name.size(),
                            kMaxTensorNameBytes));
  }
  cursor.set_place("tensor " + in_quotes(tensor.name));
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

std::vector<GgufTensor> read_directory(GgufCursor& cursor, uint64_t n_tensors, uint64_t alignment) {
  expect_count(cursor, "tensors", n_tensors, kMaxTensors, kMinTensorFileBytes, kTensorMemoryBytes);
  std::vector<GgufTensor> tensors;
  tensors.reserve(n_tensors);  // so that the names stay where the set sees them
  std::unordered_set<std::string_view> names;
  for (uint64_t i = 0; i < n_tensors; ++i) {
    cursor.set_place(fmt::format("tensor {} of {}", i + 1, n_tensors));
    tensors.push_back(read_tensor(cursor, alignment));
    if (!names.insert(tensors.back().name).second) cursor.fail("occurs twice");
  }
  return tensors;
}

/// Moves offsets from "within the data" to "within the file" and checks that the bytes are there.
void place_tensors(GgufCursor& cursor, uint64_t alignment, uint64_t file_bytes,
                   std::vector<GgufTensor>& tensors) {
  // No wrap: the position is a file's, the alignment has 32 bits.
  const uint64_t begin = (cursor.position() + alignment - 1) & ~(alignment - 1);
  const uint64_t n_data_bytes = file_bytes > begin ? file_bytes - begin : 0;
  for (GgufTensor& tensor : tensors) {
    if (tensor.file_offset > n_data_bytes || tensor.n_bytes > n_data_bytes - tensor.file_offset) {
      cursor.set_place("tensor " + in_quotes(tensor.name));
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
    cursor.set_place("tensor " + in_quotes(by_offset[i]->name));
    cursor.fail("its bytes overlap those of tensor " + in_quotes(before.name));
  }
}

}  // namespace

GgufPart read_gguf_part(const ByteSource& source) {
  GgufCursor cursor(source);
  const Header header = read_header(cursor);
  const uint64_t metadata_begin = cursor.position();
  const uint64_t alignment = skim_metadata(cursor, header.n_keys);
  GgufPart part;
  part.version = header.version;
  part.n_bytes = source.size();
  part.tensors = read_directory(cursor, header.n_tensors, alignment);
  place_tensors(cursor, alignment, source.size(), part.tensors);
  refuse_overlaps(cursor, part.tensors);
  cursor.restart(metadata_begin);
  part.metadata = read_metadata(cursor, header.n_keys);
  return part;
}

}  // namespace tandem
