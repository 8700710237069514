// NumPy's .npy files, as far as `logits` needs them: a float32 matrix, written row by row.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

namespace tandem {

/// Until close() the rows stand in `path`.part, so that a file under its own name is always whole.
class NpyWriter {
 public:
  /// Begins `path` for an (n_rows, n_cols) matrix. Throws Error(io) where it can't.
  NpyWriter(const std::string& path, int64_t n_rows, int64_t n_cols);
  /// Appends one row. Throws Error(io).
  void write_row(std::span<const float> row);
  /// Flushes, closes and gives the file its name. Throws Error(io).
  void close();
  /// Removes what was written, unless closed.
  ~NpyWriter();
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  [[noreturn]] void fail() const;
  std::string path_;
  std::string written_path_;  // path_ itself where that is no regular file (a pipe, a device)
  std::unique_ptr<std::FILE, Closer> file_;
};

}  // namespace tandem
