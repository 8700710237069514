#include "launch/batch/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

}  // namespace

void write_output(const std::string& path, const Journal& journal, Disk& disk) {
  const std::string partial = path + ".partial";
  try {
    const FileDescriptor file(::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!file.is_open()) fail_io(partial);
    std::string buffer;
    for (uint64_t line = 0; line < journal.n_lines(); ++line) {
      buffer += journal.text(line);
      buffer += '\n';
      if (buffer.size() < kBufferBytes) continue;
      write_all(disk, file.get(), buffer, partial);
      buffer.clear();
    }
    write_all(disk, file.get(), buffer, partial);
    if (disk.sync(file.get()) != 0) fail_io(partial);
    if (disk.rename(partial.c_str(), path.c_str()) != 0) fail_io(path);
  } catch (const Error&) {
    ::unlink(partial.c_str());  // gives a full disk its room back
    throw;
  }
  sync_folder_of(disk, path);
}

OutputCheck check_output(const std::string& path, const BatchInput& input, const BatchIdentity& identity) {
  std::ifstream file(path, std::ios::binary);
  if (!file.is_open()) {
    if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT) return {};
    fail_io(path);
  }
  OutputCheck check{OutputState::other, 0};
  std::string text;
  for (uint64_t line = 0; line < input.n_lines(); ++line) {
    if (!std::getline(file, text) || file.eof()) return check;
    if (!text.starts_with(line_beginning(identity, input.number(line)))) return check;
    if (!is_answer(text)) ++check.n_failed;
  }
  if (file.peek() == std::ifstream::traits_type::eof()) check.state = OutputState::complete;
  return check;
}

}  // namespace tandem
