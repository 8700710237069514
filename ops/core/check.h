// require(): an invariant of our own. Always on; a violation is a bug of tandem's, so it ends the process
// (and, through the watchdog, every rank) with the place and the values, and never unwinds.
#pragma once

#include <sstream>
#include <string>

namespace tandem {

/// std::source_location, which clang 14 (the fuzzers, clang-tidy) doesn't have.
class SourceLocation {
 public:
  constexpr SourceLocation(const char* file_name, unsigned line) : file_name_(file_name), line_(line) {}
  constexpr const char* file_name() const { return file_name_; }
  constexpr unsigned line() const { return line_; }

 private:
  const char* file_name_;
  unsigned line_;
};

/// Prints `message` with its place and ends the process with ExitCode::internal.
[[noreturn]] void fail_requirement(const std::string& message, const SourceLocation& where);

/// `hook` is called with the whole line in place of printing it and ending the process; it must not return.
/// For a program of several processes, which all have to end. Null: back to printing.
void set_requirement_hook(void (*hook)(const std::string& line));

/// A message that remembers where it was written.
struct Requirement {
  // NOLINTNEXTLINE(google-explicit-constructor): require(cond, "text") must convert
  constexpr Requirement(const char* text_in, const char* file_name = __builtin_FILE(),
                        unsigned line = __builtin_LINE())
      : text(text_in), where(file_name, line) {}
  const char* text;
  SourceLocation where;
};

/// Ends the process unless `condition` holds. `values` are printed behind the message.
template <class... Values>
void require(bool condition, Requirement requirement, const Values&... values) {
  if (condition) [[likely]]
    return;
  std::ostringstream line;
  line << requirement.text;
  ((line << ' ' << values), ...);
  fail_requirement(line.str(), requirement.where);
}

}  // namespace tandem
