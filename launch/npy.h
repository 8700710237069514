// NumPy's .npy files, as far as `logits` needs them: a float32 matrix, written row by row.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

namespace tandem {

class NpyWriter {
 public:
  /// Creates `path` for an (n_rows, n_cols) matrix. Throws Error(io) where it can't.
  NpyWriter(const std::string& path, int64_t n_rows, int64_t n_cols);
  /// Appends one row. Throws Error(io).
  void write_row(std::span<const float> row);
  /// Flushes and closes. Throws Error(io); without it the file is incomplete.
  void close();

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  [[noreturn]] void fail() const;
  std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
};

}  // namespace tandem
