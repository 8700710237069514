// What goes wrong inside a template: Python's exception classes as one C++ exception. Thrown everywhere in
// runtime/text/jinja, caught where Python's code would catch it and at last in chat_template.cpp, which makes
// an Error(bad_data) of it. Must never leave ChatTemplate.
#pragma once

#include <stdexcept>
#include <string>

namespace tandem::jinja {

enum class FaultKind {
  syntax,     ///< the template doesn't parse
  type,       ///< Python's TypeError
  value,      ///< ValueError
  lookup,     ///< KeyError, IndexError
  attribute,  ///< AttributeError
  overflow,   ///< OverflowError, and integers beyond 64 bits
  division,   ///< ZeroDivisionError
  undefined,  ///< an undefined value was used
  security,   ///< the sandbox refuses
  raised,     ///< the template called raise_exception
  limit,      ///< a bound of TemplateLimits was reached
  runtime,    ///< any other
};

class Fault : public std::runtime_error {
 public:
  Fault(FaultKind kind, const std::string& message, int line = 0)
      : std::runtime_error(message), kind_(kind), line_(line) {}
  FaultKind kind() const { return kind_; }
  int line() const { return line_; }  ///< in the template, from 1; 0 = not known yet
  void set_line(int line) { line_ = line; }

 private:
  FaultKind kind_;
  int line_;
};

}  // namespace tandem::jinja
