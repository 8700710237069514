// What batch does to files, in the few system calls whose failure must lose nothing. Tests put a disk in the
// place of the real one that fails on demand. Used by launch/batch on rank 0.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace tandem {

/// The system calls; each as its namesake: −1 and errno where it fails.
class Disk {
 public:
  virtual ~Disk() = default;
  virtual ssize_t write(int fd, const void* bytes, size_t n_bytes);
  virtual int sync(int fd);
  virtual int truncate(int fd, off_t n_bytes);
  virtual int rename(const char* from, const char* to);

  /// The operating system's.
  static Disk& real();
};

/// One open file; closes it.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  int fd_;
};

/// Throws Error{io} "PATH: reason" with errno's reason.
[[noreturn]] void fail_io(const std::string& path);
/// Writes all of `bytes` at the file's end. Throws Error{io}.
void write_all(Disk& disk, int fd, std::string_view bytes, const std::string& path);
/// Reads up to `n_bytes` at `offset`; less only at the file's end. Throws Error{io}.
std::string read_at(int fd, size_t n_bytes, off_t offset, const std::string& path);
/// Makes a new, renamed or removed name in `path`'s folder last. Throws Error{io}.
void sync_folder_of(Disk& disk, const std::string& path);

}  // namespace tandem
