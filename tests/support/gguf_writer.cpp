#include "tests/support/gguf_writer.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace tandem::test {
namespace {

void append_directory_entry(Bytes& bytes, std::string_view name, const std::vector<int64_t>& shape,
                            uint32_t type_id, uint64_t offset) {
  append_string(bytes, name);
  append_number(bytes, static_cast<uint32_t>(shape.size()));
  for (const int64_t dimension : shape) append_number(bytes, dimension);
  append_number(bytes, type_id);
  append_number(bytes, offset);
}

}  // namespace

void append_bytes(Bytes& bytes, std::span<const std::byte> more) {
  const size_t n_before = bytes.size();
  bytes.resize(n_before + more.size());
  if (!more.empty()) std::memcpy(bytes.data() + n_before, more.data(), more.size());
}

void append_string(Bytes& bytes, std::string_view text) {
  append_number(bytes, uint64_t{text.size()});
  append_bytes(bytes, std::as_bytes(std::span(text)));
}

GgufWriter& GgufWriter::set_alignment(uint32_t alignment) {
  if (!data_.empty()) throw std::invalid_argument("the alignment comes before the tensors");
  alignment_ = alignment;
  return add<uint32_t>("general.alignment", alignment);
}

GgufWriter& GgufWriter::add_raw(std::string_view key, uint32_t type_id, std::span<const std::byte> value) {
  append_string(keys_, key);
  append_number(keys_, type_id);
  append_bytes(keys_, value);
  ++n_keys_;
  return *this;
}

GgufWriter& GgufWriter::add_tensor(std::string_view name, TensorType type, const std::vector<int64_t>& shape,
                                   std::span<const std::byte> data) {
  int64_t n_bytes = row_bytes(type, shape.empty() ? 1 : shape[0]);
  for (size_t i = 1; i < shape.size(); ++i) n_bytes *= shape[i];
  if (static_cast<size_t>(n_bytes) != data.size()) throw std::invalid_argument("data of another size");
  append_directory_entry(directory_, name, shape, static_cast<uint32_t>(type), data_.size());
  append_bytes(data_, data);
  pad(data_);
  ++n_tensors_;
  return *this;
}

GgufWriter& GgufWriter::add_raw_tensor(std::string_view name, const std::vector<int64_t>& shape,
                                       uint32_t type_id, uint64_t offset) {
  append_directory_entry(directory_, name, shape, type_id, offset);
  ++n_tensors_;
  return *this;
}

GgufWriter& GgufWriter::claim_keys(uint64_t n_keys) {
  claimed_keys_ = n_keys;
  return *this;
}

GgufWriter& GgufWriter::claim_tensors(uint64_t n_tensors) {
  claimed_tensors_ = n_tensors;
  return *this;
}

void GgufWriter::pad(Bytes& bytes) const {
  bytes.resize((bytes.size() + alignment_ - 1) / alignment_ * alignment_);
}

Bytes GgufWriter::bytes() const {
  Bytes bytes;
  append_bytes(bytes, std::as_bytes(std::span(std::string_view("GGUF"))));
  append_number(bytes, version_);
  append_number(bytes, claimed_tensors_.value_or(n_tensors_));
  append_number(bytes, claimed_keys_.value_or(n_keys_));
  append_bytes(bytes, keys_);
  append_bytes(bytes, directory_);
  if (!data_.empty()) {
    pad(bytes);
    append_bytes(bytes, data_);
  }
  return bytes;
}

void GgufWriter::write(const std::string& path) const {
  write_bytes(path, bytes());
}

void write_bytes(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) throw std::runtime_error("can't write " + path);
}

size_t offset_behind(const Bytes& bytes, std::string_view text) {
  Bytes pattern;
  append_string(pattern, text);
  const auto found = std::search(bytes.begin(), bytes.end(), pattern.begin(), pattern.end());
  if (found == bytes.end()) throw std::out_of_range("no such string in the file: " + std::string(text));
  return static_cast<size_t>(found - bytes.begin()) + pattern.size();
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "tandem-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryFolder::file(std::string_view name) const {
  return (std::filesystem::path(path_) / name).string();
}

}  // namespace tandem::test
