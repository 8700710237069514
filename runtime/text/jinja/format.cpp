// "…" % values and "…".format(values). See format.h.
#include "runtime/text/jinja/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "runtime/text/jinja/format_spec.h"
#include "runtime/text/jinja/numbers.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/runtime.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

[[noreturn]] void fail(FaultKind kind, const std::string& message) {
  throw Fault(kind, message);
}

/// Walks a printf-like format.
class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, const Value& format, const Value& values)
      : runtime_(runtime), text_(format.view()), values_(values) {}

  std::string run() {
    while (pos_ < text_.size()) {
      if (text_[pos_] != '%') {
        out_ += text_[pos_++];
        continue;
      }
      ++pos_;
      conversion();
    }
    const size_t given = values_.is(Kind::tuple) ? values_.sequence().items.size() : 1;
    const bool mapping = !values_.is(Kind::tuple) && !values_.is(Kind::string) &&
                         (values_.is(Kind::list) || values_.is(Kind::dict) || values_.is(Kind::range) ||
                          values_.is(Kind::undefined));
    if (n_used_ < given && !mapping && !by_name_) {
      fail(FaultKind::type, "not all arguments converted during string formatting");
    }
    return std::move(out_);
  }

 private:
  char peek() const { return pos_ < text_.size() ? text_[pos_] : '\0'; }

  Value next_value() {
    if (values_.is(Kind::tuple)) {
      const auto& items = values_.sequence().items;
      if (n_used_ < items.size()) return items[n_used_++];
    } else if (n_used_ == 0) {
      n_used_ = 1;
      return values_;
    }
    fail(FaultKind::type, "not enough arguments for format string");
  }

  Value named_value() {
    ++pos_;
    const size_t begin = pos_;
    int depth = 1;
    for (; pos_ < text_.size() && depth > 0; ++pos_)
      depth += text_[pos_] == '(' ? 1 : text_[pos_] == ')' ? -1 : 0;
    if (depth > 0) fail(FaultKind::value, "incomplete format key");
    if (!values_.is(Kind::dict)) fail(FaultKind::type, "format requires a mapping");
    by_name_ = true;
    const std::string key(text_.substr(begin, pos_ - begin - 1));
    const Value* value = values_.dict().find(std::string_view(key));
    if (value == nullptr) fail(FaultKind::lookup, fmt::format("'{}'", key));
    return *value;
  }

  /// A width or precision: digits, or * for the next value.
  int64_t number() {
    if (peek() == '*') {
      ++pos_;
      const Value value = next_value();
      if (!value.is_int_like()) fail(FaultKind::type, "* wants int");
      return value.as_int();
    }
    int64_t n = 0;
    for (; peek() >= '0' && peek() <= '9'; ++pos_) {
      n = n * 10 + (peek() - '0');
      if (n > INT32_MAX) fail(FaultKind::value, "width too big");
    }
    return n;
  }

  void conversion() {
    std::optional<Value> named;
    if (peek() == '(') named = named_value();
    FormatSpec spec;
    bool left = false;
    bool zeros = false;
    for (; pos_ < text_.size() && std::string_view("-+ #0").find(peek()) != std::string_view::npos; ++pos_) {
      left = left || peek() == '-';
      zeros = zeros || peek() == '0';
      if (peek() == '+') spec.sign = '+';
      if (peek() == ' ' && spec.sign != '+') spec.sign = ' ';
      spec.alternate = spec.alternate || peek() == '#';
    }
    spec.width = number();
    if (spec.width < 0) {
      left = true;
      spec.width = -spec.width;
    }
    if (peek() == '.') {
      ++pos_;
      spec.precision = std::max<int64_t>(number(), 0);
    }
    while (peek() == 'l' || peek() == 'h' || peek() == 'L') ++pos_;
    if (pos_ >= text_.size()) fail(FaultKind::value, "incomplete format");
    const char type = text_[pos_++];
    if (type == '%') {
      out_ += '%';
      return;
    }
    const Value value = named ? *named : next_value();
    const bool is_number = std::string_view("diuoxXeEfFgG").find(type) != std::string_view::npos;
    spec.align = left ? '<' : zeros && is_number ? '=' : '>';
    spec.fill = zeros && is_number && !left ? "0" : " ";
    convert(type, value, spec);
  }

  void convert(char type, const Value& value, FormatSpec& spec) {
    switch (type) {
      case 's':
      case 'r':
      case 'a': {
        const std::string text = type == 's' ? to_str(runtime_, value) : to_repr(runtime_, value);
        out_ += format_text(runtime_, text, spec);
        return;
      }
      case 'c': {
        std::string text;
        if (value.is(Kind::string) && value.text().n_chars == 1) {
          text = value.view();
        } else if (value.is_int_like() && value.as_int() >= 0 && value.as_int() < 0xd800) {
          append_utf8(text, static_cast<char32_t>(value.as_int()));
        } else {
          fail(FaultKind::type, "%c requires int or char");
        }
        out_ += format_text(runtime_, text, spec);
        return;
      }
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X':
        return convert_integer(type, value, spec);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        if (!value.is_number())
          fail(FaultKind::type, fmt::format("must be real number, not {}", type_name(value)));
        spec.type = type;
        out_ += format_real(runtime_, value.as_real(), spec);
        return;
      default:
        fail(FaultKind::value, fmt::format("unsupported format character '{}'", type));
    }
  }

  void convert_integer(char type, const Value& value, FormatSpec& spec) {
    const bool decimal = type == 'd' || type == 'i' || type == 'u';
    if (!value.is_int_like() && !(decimal && value.is(Kind::real))) {
      fail(FaultKind::type,
           fmt::format("%{} format: a real number is required, not {}", type, type_name(value)));
    }
    const int64_t number = value.is(Kind::real) ? truncate_real(value.real) : value.as_int();
    spec.type = decimal ? 'd' : type;
    spec.least_digits = spec.precision;
    spec.precision = -1;
    out_ += format_integer(runtime_, number, spec);
  }

  Runtime& runtime_;
  std::string_view text_;
  const Value& values_;
  size_t pos_ = 0;
  size_t n_used_ = 0;
  bool by_name_ = false;
  std::string out_;
};

/// Walks a format of str.format.
class BracesFormatter {
 public:
  BracesFormatter(Runtime& runtime, const CallArgs& args, bool markup)
      : runtime_(runtime), args_(args), markup_(markup) {}

  std::string run(std::string_view text, int nesting) {
    if (nesting > 2) fail(FaultKind::value, "Max string recursion exceeded");
    std::string out;
    for (size_t i = 0; i < text.size();) {
      const char c = text[i];
      if (c != '{' && c != '}') {
        out += c;
        ++i;
        continue;
      }
      if (i + 1 < text.size() && text[i + 1] == c) {
        out += c;
        i += 2;
        continue;
      }
      if (c == '}') fail(FaultKind::value, "Single '}' encountered in format string");
      const size_t end = field_end(text, i + 1);
      out += field(text.substr(i + 1, end - i - 1), nesting);
      if (out.size() > runtime_.max_output_bytes()) {
        fail(FaultKind::limit, "the template makes a longer text than its limit allows");
      }
      i = end + 1;
    }
    return out;
  }

 private:
  static size_t field_end(std::string_view text, size_t begin) {
    int depth = 1;
    for (size_t i = begin; i < text.size(); ++i) {
      if (text[i] == '{') ++depth;
      if (text[i] == '}' && --depth == 0) return i;
    }
    fail(FaultKind::value, "expected '}' before end of string");
  }

  std::string field(std::string_view body, int nesting) {
    runtime_.step();
    // name [!conversion] [:spec]; a name's brackets may hold both marks.
    size_t end = 0;
    bool in_brackets = false;
    for (; end < body.size(); ++end) {
      if (body[end] == '[') in_brackets = true;
      if (body[end] == ']') in_brackets = false;
      if (!in_brackets && (body[end] == '!' || body[end] == ':')) break;
    }
    Value value = lookup(body.substr(0, end));
    std::string_view rest = body.substr(end);
    if (rest.starts_with('!')) {
      if (rest.size() < 2) fail(FaultKind::value, "end of string while looking for conversion specifier");
      const char conversion = rest[1];
      rest.remove_prefix(2);
      if (!rest.empty() && rest[0] != ':') fail(FaultKind::value, "expected ':' after conversion specifier");
      if (conversion == 's') {
        value = soft_string(runtime_, value);
      } else if (conversion == 'r') {
        value = runtime_.string(to_repr(runtime_, value));
      } else {
        fail(FaultKind::value, fmt::format("Unknown conversion specifier {}", conversion));
      }
    }
    const std::string spec = rest.empty() ? "" : run(rest.substr(1), nesting + 1);
    const std::string text = format_value(runtime_, value, spec);
    const bool escapes = markup_ && !(value.is(Kind::string) && value.text().markup);
    return escapes ? escape_html(text) : text;
  }

  Value lookup(std::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    Value value =
        name.empty() ? next_value() : first_value(name.substr(0, first_end), first_end == name.size());
    name.remove_prefix(first_end);
    while (!name.empty()) {
      if (name[0] == '.') {
        const size_t end = std::min(name.find_first_of(".[", 1), name.size());
        if (end == 1) fail(FaultKind::value, "Empty attribute in format string");
        value = get_attribute(runtime_, value, name.substr(1, end - 1));
        name.remove_prefix(end);
        continue;
      }
      const size_t close = name.find(']');
      if (name[0] != '[' || close == std::string_view::npos)
        fail(FaultKind::value, "Missing ']' in format string");
      const std::string_view key = name.substr(1, close - 1);
      if (key.empty()) fail(FaultKind::value, "Empty attribute in format string");
      const bool digits = key.find_first_not_of("0123456789") == std::string_view::npos;
      value = get_item(
          runtime_, value,
          digits ? Value::from_int(parse_int(key, 10).value_or(0)) : runtime_.string(std::string(key)));
      name.remove_prefix(close + 1);
    }
    return value;
  }

  Value next_value() {
    if (numbering_ == Numbering::manual) {
      fail(FaultKind::value, "cannot switch from manual field specification to automatic field numbering");
    }
    numbering_ = Numbering::automatic;
    return positional(next_++);
  }

  /// `alone`: nothing of the field's name follows.
  Value first_value(std::string_view name, bool alone) {
    const bool digits = !name.empty() && name.find_first_not_of("0123456789") == std::string_view::npos;
    if (!digits) {
      for (const auto& [key, value] : args_.keywords) {
        if (key == name) return value;
      }
      fail(FaultKind::lookup, fmt::format("'{}'", name));
    }
    if (alone) {
      if (numbering_ == Numbering::automatic) {
        fail(FaultKind::value, "cannot switch from manual field specification to automatic field numbering");
      }
      numbering_ = Numbering::manual;
    }
    return positional(parse_int(name, 10).value_or(0));
  }

  Value positional(int64_t index) const {
    if (static_cast<size_t>(index) >= args_.positional.size())
      fail(FaultKind::lookup, "tuple index out of range");
    return args_.positional[static_cast<size_t>(index)];
  }

  enum class Numbering { open, automatic, manual };

  Runtime& runtime_;
  const CallArgs& args_;
  bool markup_;
  int64_t next_ = 0;
  Numbering numbering_ = Numbering::open;
};

}  // namespace

Value format_percent(Runtime& runtime, const Value& format, const Value& values) {
  runtime.scan(format.view().size());
  Value arguments = values;
  const bool markup = format.text().markup;
  if (markup) {
    // markupsafe escapes what goes into a Markup; numbers stay as they are.
    const auto escaped = [&](const Value& v) {
      const bool plain = v.is_number() || (v.is(Kind::string) && v.text().markup);
      return plain ? v : runtime.string(escape_html(to_str(runtime, v)), true);
    };
    if (values.is(Kind::tuple)) {
      std::vector<Value> items;
      for (const Value& item : values.sequence().items) items.push_back(escaped(item));
      arguments = runtime.tuple(std::move(items));
    } else if (!values.is(Kind::dict)) {
      arguments = escaped(values);
    }
  }
  return runtime.string(PercentFormatter(runtime, format, arguments).run(), markup);
}

Value format_braces(Runtime& runtime, const Value& format, const CallArgs& args) {
  runtime.scan(format.view().size());
  const bool markup = format.text().markup;
  return runtime.string(BracesFormatter(runtime, args, markup).run(format.view(), 1), markup);
}

}  // namespace tandem::jinja
