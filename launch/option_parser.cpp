#include "launch/option_parser.h"

#include <fmt/format.h>
#include <launch/build_info.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "comm/mpi.h"
#include "launch/log.h"
#include "launch/output.h"
#include "ops/core/check.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

namespace po = boost::program_options;

/// "ctx-size" -> "TANDEM_CTX_SIZE".
std::string variable_name(const std::string& option) {
  std::string name = "TANDEM_" + option;
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

std::string number_text(double value) {
  return fmt::format("{:g}", value);
}

}  // namespace

OptionParser::OptionParser(std::string command, std::string summary, std::string notes)
    : command_(std::move(command)), summary_(std::move(summary)), notes_(std::move(notes)) {
  add_flag("help,h", wants_help_, "print this text");
  add_flag("verbose,v", verbose_, "say more on stderr");
  add_flag("quiet,q", quiet_, "say only what went wrong");
}

void OptionParser::add(const std::string& names, Option option) {
  size_t begin = 0;
  while (begin <= names.size()) {
    const size_t end = std::min(names.find(',', begin), names.size());
    const std::string name = names.substr(begin, end - begin);
    if (option.name.empty()) {
      option.name = name;
    } else {
      option.aliases.push_back(name);
    }
    begin = end + 1;
  }
  options_.push_back(std::move(option));
}

void OptionParser::add_flag(const std::string& names, bool& target, const std::string& help) {
  Option option;
  option.kind = Kind::flag;
  option.help = help;
  option.apply = [this, &target](const std::string& text, const std::string& origin) {
    if (text == "1" || text == "true" || text == "on") {
      target = true;
    } else if (text == "0" || text == "false" || text == "off") {
      target = false;
    } else {
      fail_value(origin, text, "not on or off");
    }
  };
  add(names, std::move(option));
}

int64_t OptionParser::read_integer(const std::string& text, const std::string& origin, int64_t low,
                                   int64_t high) const {
  int64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status == std::errc::invalid_argument || end != text.data() + text.size()) {
    fail_value(origin, text, "not a whole number");
  }
  if (status == std::errc::result_out_of_range || value < low || value > high) {
    fail_value(origin, text, fmt::format("not within {} to {}", low, high));
  }
  return value;
}

void OptionParser::add_integer(const std::string& names, int64_t& target, int64_t low, int64_t high,
                               const std::string& help) {
  add_custom(names, "N", help, std::to_string(target), false,
             [this, &target, low, high](const std::string& text, const std::string& origin) {
               target = read_integer(text, origin, low, high);
             });
}

void OptionParser::add_integer(const std::string& names, int& target, int low, int high,
                               const std::string& help) {
  add_custom(names, "N", help, std::to_string(target), false,
             [this, &target, low, high](const std::string& text, const std::string& origin) {
               target = static_cast<int>(read_integer(text, origin, low, high));
             });
}

void OptionParser::add_number(const std::string& names, double& target, double low, double high,
                              const std::string& help) {
  add_custom(
      names, "X", help, number_text(target), false,
      [this, &target, low, high](const std::string& text, const std::string& origin) {
        double value = 0;
        const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (status == std::errc::invalid_argument || end != text.data() + text.size() || std::isnan(value)) {
          fail_value(origin, text, "not a number");
        }
        if (status == std::errc::result_out_of_range || value < low || value > high) {
          fail_value(origin, text, fmt::format("not within {} to {}", number_text(low), number_text(high)));
        }
        target = value;
      });
}

void OptionParser::add_text(const std::string& names, std::string& target, const std::string& placeholder,
                            const std::string& help) {
  add_custom(names, placeholder, help, target, false,
             [&target](const std::string& text, const std::string&) { target = text; });
}

void OptionParser::add_choice(const std::string& names, std::string& target,
                              const std::vector<std::string>& choices, const std::string& help) {
  const std::string all = fmt::format("{}", fmt::join(choices, "|"));
  add_custom(names, all, help, target, false,
             [this, &target, choices, all](const std::string& text, const std::string& origin) {
               if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
                 fail_value(origin, text, "not one of " + all);
               }
               target = text;
             });
}

void OptionParser::add_custom(const std::string& names, const std::string& placeholder,
                              const std::string& help, const std::string& default_text, bool repeatable,
                              std::function<void(const std::string&, const std::string&)> apply) {
  Option option;
  option.kind = repeatable ? Kind::repeatable : Kind::single;
  option.placeholder = placeholder;
  option.help = help;
  option.default_text = default_text;
  option.apply = std::move(apply);
  add(names, std::move(option));
}

void OptionParser::add_positional(const std::string& name, std::string& target, const std::string& help) {
  require(positional_.empty(), "a command takes one positional argument at most");
  Option option;
  option.name = name;
  option.help = help;
  option.apply = [&target](const std::string& text, const std::string&) { target = text; };
  positional_.push_back(std::move(option));
}

void OptionParser::add_alternatives(std::vector<std::string> names) {
  alternatives_.push_back(std::move(names));
}

bool OptionParser::parse(const Arguments& arguments) {
  const std::vector<Given> found = read_arguments(long_names_only(arguments));
  for (const Given& given : found) option_named(given.name).given = true;
  check_alternatives();
  apply_environment();
  for (const Given& given : found) apply(option_named(given.name), given.text, given.origin);
  if (wants_help_) {
    if (launcher_info().rank <= 0) print_result(help());
    return false;
  }
  set_up_log(quiet_ ? -1 : (verbose_ ? 1 : 0));
  return true;
}

Arguments OptionParser::long_names_only(const Arguments& arguments) const {
  // Boost knows one letter after one dash. A longer alias is replaced by its long name; what follows a flag
  // that takes a value is a value and stays as it is.
  Arguments result;
  bool value_next = false;
  for (const std::string& argument : arguments) {
    std::string text = argument;
    bool takes_value = false;
    for (const Option& option : options_) {
      if (value_next) break;
      bool matches = argument == "--" + option.name;
      for (const std::string& alias : option.aliases) matches = matches || argument == "-" + alias;
      if (!matches) continue;
      text = "--" + option.name;
      takes_value = option.kind != Kind::flag;
    }
    // "--name" "value" becomes "--name=value", so that a value may begin with a dash.
    if (value_next && !argument.empty()) {
      result.back() += "=" + argument;
    } else {
      result.push_back(text);
    }
    value_next = takes_value;
  }
  if (value_next) fail(fmt::format("{} needs a value", arguments.back()));
  return result;
}

void OptionParser::check_alternatives() const {
  const auto shown = [&](const std::string& name) {
    return !positional_.empty() && positional_[0].name == name ? name : "--" + name;
  };
  for (const auto& names : alternatives_) {
    const std::string* first = nullptr;
    for (const std::string& name : names) {
      if (!option_named(name).given) continue;
      if (first != nullptr) fail(fmt::format("give either {} or {}", shown(*first), shown(name)));
      first = &name;
    }
  }
}

void OptionParser::apply(Option& option, const std::string& text, const std::string& origin) {
  option.apply(text, origin);
  if (option.kind != Kind::repeatable) option.values.clear();
  option.values.push_back(text);
}

void OptionParser::apply_environment() {
  const auto on_command_line = [&](const std::string& name) { return option_named(name).given; };
  std::vector<std::string> settled;  // by an alternative
  for (const auto& names : alternatives_) {
    if (std::any_of(names.begin(), names.end(), on_command_line))
      settled.insert(settled.end(), names.begin(), names.end());
  }
  for (Option& option : options_) {
    const std::string variable = variable_name(option.name);
    const char* text = std::getenv(variable.c_str());
    if (text == nullptr || option.given || option.name == "help") continue;
    if (std::find(settled.begin(), settled.end(), option.name) != settled.end()) continue;
    apply(option, text, variable);
    option.given = true;
  }
}

std::vector<std::string> OptionParser::settings() const {
  constexpr std::array<std::string_view, 7> kOwn = {"help",    "verbose", "quiet",       "progress",
                                                    "threads", "model",   "mem-fraction"};
  std::vector<std::string> found = {fmt::format("`tandem {}` {} ({})", command_, kVersion, kCommit)};
  for (const Option& option : options_) {
    if (std::find(kOwn.begin(), kOwn.end(), option.name) != kOwn.end()) continue;
    for (const std::string& value : option.values)
      found.push_back(fmt::format("--{}={}", option.name, value));
  }
  return found;
}

std::vector<OptionParser::Given> OptionParser::read_arguments(const Arguments& arguments) const {
  po::options_description known;
  for (const Option& option : options_) {
    std::string names = option.name;
    for (const std::string& alias : option.aliases) {
      if (alias.size() == 1) names += "," + alias;
    }
    if (option.kind == Kind::flag) {
      known.add_options()(names.c_str(), "");
    } else {
      known.add_options()(names.c_str(), po::value<std::vector<std::string>>(), "");
    }
  }
  po::parsed_options parsed(&known);
  try {
    const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    parsed = po::command_line_parser(arguments).options(known).style(style).run();
  } catch (const po::error& error) {
    fail(error.what());
  }
  std::vector<Given> found;
  bool has_word = false;
  for (const auto& item : parsed.options) {
    if (item.position_key >= 0) {
      if (positional_.empty() || has_word) fail(fmt::format("unexpected argument '{}'", item.value.at(0)));
      has_word = true;
      found.push_back({positional_[0].name, item.value.at(0), positional_[0].name});
    } else if (item.value.empty()) {
      found.push_back({item.string_key, "on", "--" + item.string_key});
    } else {
      for (const std::string& text : item.value)
        found.push_back({item.string_key, text, "--" + item.string_key});
    }
  }
  return found;
}

const OptionParser::Option& OptionParser::option_named(const std::string& name) const {
  for (const auto* list : {&options_, &positional_}) {
    for (const Option& option : *list) {
      if (option.name == name) return option;
    }
  }
  require(false, "no such option", name);
  std::abort();
}

OptionParser::Option& OptionParser::option_named(const std::string& name) {
  return const_cast<Option&>(std::as_const(*this).option_named(name));
}

bool OptionParser::given(const std::string& name) {
  return option_named(name).given;
}

std::string OptionParser::option_help(const Option& option) const {
  std::string names;
  for (const std::string& alias : option.aliases) names += "-" + alias + ", ";
  names += "--" + option.name;
  if (!option.placeholder.empty()) names += " " + option.placeholder;
  std::string line = fmt::format("  {:<34} {}", names, option.help);
  if (names.size() > 34) line = fmt::format("  {}\n  {:<34} {}", names, "", option.help);
  if (!option.default_text.empty()) line += fmt::format(" (default {})", option.default_text);
  return line + "\n";
}

std::string OptionParser::help() const {
  const std::string word = positional_.empty() ? "" : " [" + positional_[0].name + "]";
  std::string text = fmt::format("{}\n\nusage: tandem {} [options]{}\n\n", summary_, command_, word);
  for (const Option& option : positional_) text += fmt::format("  {:<34} {}\n", option.name, option.help);
  for (const Option& option : options_) text += option_help(option);
  text +=
      "\nEvery option may be given as an environment variable too: TANDEM_CTX_SIZE for --ctx-size. Flags "
      "win.\n";
  if (!notes_.empty()) text += "\n" + notes_ + "\n";
  return text;
}

void OptionParser::fail(const std::string& what) const {
  throw Error(ExitCode::usage, what, fmt::format("see `tandem {} --help`", command_));
}

void OptionParser::fail_value(const std::string& origin, const std::string& text,
                              const std::string& why) const {
  fail(fmt::format("{}={}: {}", origin, text, why));
}

}  // namespace tandem
