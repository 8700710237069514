// The flags of one subcommand: names, ranges, help text, and where a value came from. Boost.Program_options
// does the parsing; the values are read here, so that each wrong one is told in one line with its flag or
// variable. Precedence: flag > TANDEM_* environment variable (TANDEM_CTX_SIZE for --ctx-size) > the target's
// value before parse(). A flag given twice: the last one counts, unless it is repeatable. Never starts MPI.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "launch/command.h"

namespace tandem {

class OptionParser {
 public:
  /// `command` as in `tandem COMMAND`; `summary` and `notes` frame the help text.
  OptionParser(std::string command, std::string summary, std::string notes = {});

  // `names`: the long name, then short ones: "ctx-size,c" or "cache-type-k,ctk" (more letters after one dash
  // are fine). Targets keep their value where nothing is given; help shows that value as the default.

  void add_flag(const std::string& names, bool& target, const std::string& help);
  void add_integer(const std::string& names, int64_t& target, int64_t low, int64_t high,
                   const std::string& help);
  void add_integer(const std::string& names, int& target, int low, int high, const std::string& help);
  /// Refuses NaN always, and infinities unless the range holds them.
  void add_number(const std::string& names, double& target, double low, double high, const std::string& help);
  void add_text(const std::string& names, std::string& target, const std::string& placeholder,
                const std::string& help);
  void add_choice(const std::string& names, std::string& target, const std::vector<std::string>& choices,
                  const std::string& help);
  /// `apply` gets the text and throws Error{usage} by fail_value(); `default_text` is for the help.
  /// A repeatable one is applied once a value, in order.
  void add_custom(const std::string& names, const std::string& placeholder, const std::string& help,
                  const std::string& default_text, bool repeatable,
                  std::function<void(const std::string& text, const std::string& origin)> apply);
  /// A word without a flag. At most one.
  void add_positional(const std::string& name, std::string& target, const std::string& help);
  /// Ways to say the same: two of them on the command line are refused, and one there makes the environment's
  /// others count for nothing. Long names, and the positional's.
  void add_alternatives(std::vector<std::string> names);

  /// Reads `arguments` and the environment into the targets, and sets up the log (-v, -q). False where --help
  /// was asked for and printed on rank 0: the command is done. Throws Error{usage}.
  bool parse(const Arguments& arguments);

  /// True where the option was given, by flag or environment. `name`: the long one.
  bool given(const std::string& name);

  /// What all ranks have to be told alike: command and version, and what was given, a "--name=value" each,
  /// but for what each may have of its own (threads, memory, how much is said, and where the model lies).
  std::vector<std::string> settings() const;

  std::string help() const;

  /// Throws Error{usage}: `what`, with the hint where to read on. For checks of several options together.
  [[noreturn]] void fail(const std::string& what) const;
  /// The same for one value: "--temp=nan: not a number". `origin` as `apply` got it.
  [[noreturn]] void fail_value(const std::string& origin, const std::string& text,
                               const std::string& why) const;

 private:
  enum class Kind { flag, single, repeatable };
  struct Option {
    std::string name;                  // long, without dashes
    std::vector<std::string> aliases;  // without dashes
    Kind kind = Kind::single;
    std::string placeholder;
    std::string help;
    std::string default_text;
    std::function<void(const std::string& text, const std::string& origin)> apply;
    bool given = false;
    std::vector<std::string> values;  // as they were applied
  };

  /// A value that the command line holds.
  struct Given {
    std::string name;
    std::string text;
    std::string origin;
  };

  void add(const std::string& names, Option option);
  int64_t read_integer(const std::string& text, const std::string& origin, int64_t low, int64_t high) const;
  Arguments long_names_only(const Arguments& arguments) const;
  std::vector<Given> read_arguments(const Arguments& arguments) const;
  void check_alternatives() const;
  void apply_environment();
  static void apply(Option& option, const std::string& text, const std::string& origin);
  Option& option_named(const std::string& name);
  const Option& option_named(const std::string& name) const;
  std::string option_help(const Option& option) const;

  std::string command_;
  std::string summary_;
  std::string notes_;
  std::vector<Option> options_;
  std::vector<Option> positional_;  // none or one
  std::vector<std::vector<std::string>> alternatives_;
  bool wants_help_ = false;
  bool verbose_ = false;
  bool quiet_ = false;
};

}  // namespace tandem
