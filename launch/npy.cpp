#include "launch/npy.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "ops/core/error.h"

namespace tandem {

namespace {

bool is_special(const std::string& path) {
  std::error_code none;
  const auto status = std::filesystem::status(path, none);
  return std::filesystem::exists(status) && !std::filesystem::is_regular_file(status);
}

}  // namespace

NpyWriter::~NpyWriter() {
  if (file_ && written_path_ != path_) std::remove(written_path_.c_str());
}

void NpyWriter::fail() const {
  throw Error(ExitCode::io, fmt::format("{}: {}", path_, std::strerror(errno)));
}

NpyWriter::NpyWriter(const std::string& path, int64_t n_rows, int64_t n_cols)
    : path_(path),
      written_path_(is_special(path) ? path : path + ".part"),
      file_(std::fopen(written_path_.c_str(), "wb")) {
  if (!file_) fail();
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", n_rows, n_cols);
  // Magic, version 1.0, length and text together fill a multiple of 64 bytes, the text ending in a newline.
  constexpr size_t kBeforeText = 10;
  header.append(63 - (kBeforeText + header.size()) % 64, ' ');
  header.push_back('\n');
  const auto length = static_cast<uint16_t>(header.size());
  const char start[kBeforeText] = {'\x93',
                                   'N',
                                   'U',
                                   'M',
                                   'P',
                                   'Y',
                                   1,
                                   0,
                                   static_cast<char>(length & 0xff),
                                   static_cast<char>(length >> 8)};
  if (std::fwrite(start, 1, kBeforeText, file_.get()) != kBeforeText ||
      std::fwrite(header.data(), 1, header.size(), file_.get()) != header.size()) {
    fail();
  }
}

void NpyWriter::write_row(std::span<const float> row) {
  if (std::fwrite(row.data(), sizeof(float), row.size(), file_.get()) != row.size()) fail();
}

void NpyWriter::close() {
  if (std::fflush(file_.get()) != 0) fail();
  if (written_path_ != path_ && std::rename(written_path_.c_str(), path_.c_str()) != 0) fail();
  if (std::fclose(file_.release()) != 0) fail();
}

}  // namespace tandem
