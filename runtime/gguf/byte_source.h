// Where the bytes of a GGUF file come from. Used by runtime/gguf alone. Never maps a file: one that shrinks
// while it is read must be an error, not a SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace tandem {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual const std::string& name() const = 0;  ///< for messages
  virtual uint64_t size() const = 0;
  /// Fills `into` with the bytes from `offset`; the caller stays within size().
  virtual void read(uint64_t offset, std::span<std::byte> into) const = 0;
};

/// A regular file, open for reading.
class FileSource final : public ByteSource {
 public:
  /// Throws Error(io) where `path` can't be opened or is no regular file.
  explicit FileSource(std::string path);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  const std::string& name() const override { return path_; }
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, std::span<std::byte> into) const override;

 private:
  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

/// Bytes that the caller keeps alive.
class MemorySource final : public ByteSource {
 public:
  MemorySource(std::span<const std::byte> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}
  const std::string& name() const override { return name_; }
  uint64_t size() const override { return bytes_.size(); }
  void read(uint64_t offset, std::span<std::byte> into) const override;

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
};

}  // namespace tandem
