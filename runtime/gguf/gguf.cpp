#include "runtime/gguf/gguf.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "ops/core/error.h"
#include "runtime/gguf/byte_source.h"
#include "runtime/gguf/part.h"
#include "runtime/gguf/printable.h"
#include "runtime/gguf/split.h"

namespace tandem {
namespace {

constexpr int64_t kMaxParts = 65535;
constexpr std::string_view kSplitNumber = "split.no";  // from 0
constexpr std::string_view kSplitCount = "split.count";
constexpr std::string_view kSplitTensors = "split.tensors.count";

[[noreturn]] void fail(const std::string& path, std::string_view what, std::string hint = {}) {
  throw Error(ExitCode::bad_data, fmt::format("{}: {}", printable(path, kPathCharacters), what),
              std::move(hint));
}

}  // namespace

int64_t GgufTensor::n_rows() const {
  int64_t n = 1;
  for (size_t i = 1; i < shape.size(); ++i) n *= shape[i];
  return n;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

GgufFile GgufFile::read_one(const ByteSource& source) {
  GgufPart part = read_gguf_part(source);
  GgufFile file;
  file.paths_.push_back(source.name());
  file.version_ = part.version;
  file.total_bytes_ = part.n_bytes;
  file.metadata_ = std::move(part.metadata);
  file.tensors_ = std::move(part.tensors);
  for (size_t i = 0; i < file.tensors_.size(); ++i) file.tensor_index_.emplace(file.tensors_[i].name, i);
  return file;
}

GgufFile GgufFile::from_directory(const std::string& name, GgufMetadata metadata,
                                  std::vector<GgufTensor> tensors) {
  GgufFile file;
  file.paths_.push_back(name);
  file.version_ = 3;
  file.metadata_ = std::move(metadata);
  file.tensors_ = std::move(tensors);
  for (size_t i = 0; i < file.tensors_.size(); ++i) {
    GgufTensor& tensor = file.tensors_[i];
    tensor.n_bytes = static_cast<uint64_t>(tensor.n_rows() * row_bytes(tensor.type, tensor.n_cols()));
    file.total_bytes_ += tensor.n_bytes;
    file.tensor_index_.emplace(tensor.name, i);
  }
  return file;
}

int64_t GgufFile::n_parts() const {
  // A file merged from parts says 0.
  return std::max(int64_t{1}, get_int_or(kSplitCount, 1, 0, kMaxParts));
}

GgufFile GgufFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  GgufFile file = read_one(MemorySource(bytes, name));
  if (file.n_parts() > 1) fail(name, "is a part of a split model");
  return file;
}

GgufFile GgufFile::open(const std::string& path) {
  GgufFile file = read_one(FileSource(path));
  const int64_t n_parts = file.n_parts();
  if (n_parts > 1) {
    file.open_other_parts(n_parts);
    return file;
  }
  const std::optional<SplitName> name = parse_split_name(path);
  if (name && name->count > 1) {
    fail(path, fmt::format("is named as part {} of {}, but has no key {} that says so", name->number,
                           name->count, in_quotes(kSplitCount)));
  }
  return file;
}

void GgufFile::open_other_parts(int64_t n_parts) {
  const std::string first_path = path();
  const std::optional<SplitName> name = parse_split_name(first_path);
  const int64_t number = get_int(kSplitNumber, 0, n_parts - 1) + 1;
  if (number != 1) {
    fail(first_path, fmt::format("is part {} of {}; open the first part, {}", number, n_parts,
                                 in_quotes(make_split_path(name ? name->prefix : "…", 1, n_parts))));
  }
  if (!name || name->number != 1 || name->count != n_parts) {
    fail(first_path, fmt::format("is part 1 of {} by its keys, so its name must end in {}", n_parts,
                                 in_quotes(make_split_path("", 1, n_parts))));
  }
  for (int64_t i = 2; i <= n_parts; ++i) {
    const std::string part_path = make_split_path(name->prefix, i, n_parts);
    if (::access(part_path.c_str(), F_OK) != 0) {
      fail(first_path, fmt::format("part {} of {} is missing: {}", i, n_parts, in_quotes(part_path)));
    }
    GgufFile part = read_one(FileSource(part_path));
    const int64_t own_count = part.get_int(kSplitCount, 0, kMaxParts);
    const int64_t own_number = part.get_int(kSplitNumber, 0, kMaxParts) + 1;
    if (own_number != i || own_count != n_parts) {
      fail(part_path, fmt::format("is part {} of {} by its keys, but part {} of {} by its name", own_number,
                                  own_count, i, n_parts));
    }
    append(std::move(part));
  }
  const int64_t n_tensors = get_int(kSplitTensors, 0, std::numeric_limits<int64_t>::max());
  if (!std::cmp_equal(n_tensors, tensors_.size())) {
    fail(first_path, fmt::format("key {}: is {}, but the {} parts hold {} tensors", in_quotes(kSplitTensors),
                                 n_tensors, n_parts, tensors_.size()));
  }
}

void GgufFile::append(GgufFile&& part) {
  for (const auto& [key, value] : part.metadata_) {
    const GgufValue* first = find_value(key);
    if (key == kSplitNumber || first == nullptr || *first == value) continue;
    fail(part.path(),
         fmt::format("key {}: differs from the first part's, {}", in_quotes(key), in_quotes(path())));
  }
  const int file_index = static_cast<int>(paths_.size());
  for (GgufTensor& tensor : part.tensors_) {
    tensor.file_index = file_index;
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
      fail(part.path(), fmt::format("tensor {}: is in an earlier part already", in_quotes(tensor.name)));
    }
    tensors_.push_back(std::move(tensor));
  }
  total_bytes_ += part.total_bytes_;
  paths_.push_back(part.path());
}

}  // namespace tandem
