// Python's str methods that make other strings, and those that ask what a string is made of. See methods.h.
#include <fmt/format.h>

#include <algorithm>

#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

template <std::string (*Map)(std::string_view)>
Value mapped(Runtime& runtime, const Value& self, const CallArgs& args) {
  refuse_arguments("str method", args);
  runtime.scan(self.view().size() * 8);
  runtime.heap().charge(self.view().size() * 4);  // code points
  return runtime.string(Map(self.view()), self.text().markup);
}

template <bool Left, bool Right>
Value stripped(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("strip", args, {""});
  std::optional<std::string_view> chars;
  if (arguments.given(0) && !arguments[0].is(Kind::none)) chars = arguments.text(0).bytes;
  runtime.scan(self.view().size() * (chars ? chars->size() + 1 : 1));
  return runtime.string(std::string(strip(self.view(), chars, Left, Right)), self.text().markup);
}

/// An argument that joins with a Markup is escaped unless it is Markup itself.
std::string argument_text(const Value& self, const Text& text) {
  return self.text().markup && !text.markup ? escape_html(text.bytes) : text.bytes;
}

Value str_replace(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("replace", args, {"", "", ""}, 2);
  const std::string_view text = self.view();
  const std::string& from = arguments.text(0).bytes;
  const std::string to = argument_text(self, arguments.text(1));
  int64_t left = arguments.integer(2, -1);
  if (left < 0) left = INT64_MAX;
  std::string out;
  size_t pos = 0;
  runtime.scan(text.size());
  const auto put = [&](std::string_view part) {
    if (part.size() > runtime.max_output_bytes() - std::min(out.size(), runtime.max_output_bytes())) {
      throw Fault(FaultKind::limit, "the template makes a longer text than its limit allows");
    }
    out += part;
  };
  for (; left > 0; --left) {
    const size_t at = find_bytes(text, from, pos);
    if (at == std::string_view::npos) break;
    runtime.step();
    put(text.substr(pos, at - pos));
    put(to);
    pos = at + from.size();
    if (!from.empty()) continue;
    // An empty needle is found before every character and at the end.
    if (pos >= text.size()) return runtime.string(std::move(out), self.text().markup);
    const size_t begin = pos;
    decode(text, pos);
    put(text.substr(begin, pos - begin));
  }
  put(text.substr(pos));
  return runtime.string(std::move(out), self.text().markup);
}

Value str_join(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("join", args, {""}, 1);
  std::string out;
  Cursor cursor(runtime, arguments[0]);
  Value item;
  for (int64_t i = 0; cursor.next(runtime, item); ++i) {
    const bool markup = self.text().markup;
    if (!item.is(Kind::string) && !markup) {
      throw Fault(FaultKind::type,
                  fmt::format("sequence item {}: expected str instance, {} found", i, type_name(item)));
    }
    if (i > 0) out += self.view();
    out += argument_text(self, soft_string(runtime, item).text());
    if (out.size() > runtime.max_output_bytes()) {
      throw Fault(FaultKind::limit, "the template makes a longer text than its limit allows");
    }
  }
  return runtime.string(std::move(out), self.text().markup);
}

/// `n` fill characters.
std::string padding(Runtime& runtime, const std::string& fill, int64_t n) {
  std::string out;
  if (n <= 0) return out;
  size_t total = 0;
  if (__builtin_mul_overflow(fill.size(), static_cast<size_t>(n), &total)) total = SIZE_MAX;
  runtime.heap().charge(total);
  out.reserve(total);
  for (int64_t i = 0; i < n; ++i) out += fill;
  return out;
}

enum class Side { left, right, both };

template <Side Where>
Value justified(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("center/ljust/rjust", args, {"", ""}, 1);
  const int64_t width = arguments.integer(0, 0);
  const std::string fill = arguments.given(1) ? argument_text(self, arguments.text(1)) : " ";
  if (count_chars(fill) != 1)
    throw Fault(FaultKind::type, "The fill character must be exactly one character long");
  const auto have = static_cast<int64_t>(self.text().n_chars);
  if (width <= have) return self;
  const int64_t missing = width - have;
  int64_t left = Where == Side::right ? missing : 0;
  if (Where == Side::both) left = missing / 2 + (missing & width & 1);
  return runtime.string(
      padding(runtime, fill, left) + std::string(self.view()) + padding(runtime, fill, missing - left),
      self.text().markup);
}

Value str_zfill(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("zfill", args, {""}, 1);
  const int64_t width = arguments.integer(0, 0);
  const auto have = static_cast<int64_t>(self.text().n_chars);
  if (width <= have) return self;
  const std::string_view text = self.view();
  const bool is_signed = !text.empty() && (text[0] == '-' || text[0] == '+');
  const std::string zeros = padding(runtime, "0", width - have);
  return runtime.string(
      std::string(text.substr(0, is_signed ? 1 : 0)) + zeros + std::string(text.substr(is_signed ? 1 : 0)),
      self.text().markup);
}

Value str_removeprefix(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("removeprefix", args, {""}, 1);
  const std::string_view prefix = arguments.text(0).bytes;
  const std::string_view text = self.view();
  return runtime.string(std::string(text.starts_with(prefix) ? text.substr(prefix.size()) : text),
                        self.text().markup);
}

Value str_removesuffix(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("removesuffix", args, {""}, 1);
  const std::string_view suffix = arguments.text(0).bytes;
  const std::string_view text = self.view();
  return runtime.string(
      std::string(text.ends_with(suffix) ? text.substr(0, text.size() - suffix.size()) : text),
      self.text().markup);
}

Value str_format(Runtime& runtime, const Value& self, const CallArgs& args) {
  return format_braces(runtime, self, args);
}

Value str_format_map(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("format_map", args, {""}, 1);
  if (!arguments[0].is(Kind::dict)) throw Fault(FaultKind::type, "format_map() takes a dict");
  CallArgs call;
  for (const auto& [key, value] : arguments[0].dict().entries) {
    if (key.is(Kind::string)) call.keywords.emplace_back(std::string(key.view()), value);
  }
  return format_braces(runtime, self, call);
}

/// Every character is of `Wanted`, and there is one.
template <uint32_t Wanted>
Value all_of(Runtime& runtime, const Value& self, const CallArgs& args) {
  refuse_arguments("str method", args);
  runtime.scan(self.view().size() * 8);
  const std::string_view text = self.view();
  for (size_t i = 0; i < text.size();) {
    if ((classes_of(decode(text, i)) & Wanted) == 0) return Value::from_bool(false);
  }
  return Value::from_bool(!text.empty() || Wanted == kPrintable);
}

/// Some character has the case, none another.
template <uint32_t Wanted>
Value all_cased(Runtime& runtime, const Value& self, const CallArgs& args) {
  refuse_arguments("str method", args);
  runtime.scan(self.view().size() * 8);
  bool cased = false;
  const std::string_view text = self.view();
  for (size_t i = 0; i < text.size();) {
    const uint32_t classes = classes_of(decode(text, i)) & (kLower | kUpper | kTitle);
    if (classes == 0) continue;
    if ((classes & Wanted) == 0) return Value::from_bool(false);
    cased = true;
  }
  return Value::from_bool(cased);
}

Value str_istitle(Runtime& runtime, const Value& self, const CallArgs& args) {
  refuse_arguments("istitle", args);
  runtime.scan(self.view().size() * 8);
  bool cased = false;
  bool in_word = false;
  const std::string_view text = self.view();
  for (size_t i = 0; i < text.size();) {
    const uint32_t classes = classes_of(decode(text, i));
    const bool upper = (classes & (kUpper | kTitle)) != 0;
    const bool lower = !upper && (classes & kLower) != 0;
    if ((upper && in_word) || (lower && !in_word)) return Value::from_bool(false);
    cased = cased || upper || lower;
    in_word = upper || lower;
  }
  return Value::from_bool(cased);
}

Value str_isascii(Runtime& /*runtime*/, const Value& self, const CallArgs& args) {
  refuse_arguments("isascii", args);
  return Value::from_bool(self.text().ascii());
}

Value str_isidentifier(Runtime& runtime, const Value& self, const CallArgs& args) {
  refuse_arguments("isidentifier", args);
  runtime.scan(self.view().size() * 8);
  const std::string_view text = self.view();
  for (size_t i = 0; i < text.size();) {
    const uint32_t wanted = i == 0 ? kIdentifierStart : kIdentifierContinue;
    if ((classes_of(decode(text, i)) & wanted) == 0) return Value::from_bool(false);
  }
  return Value::from_bool(!text.empty());
}

constexpr MethodEntry kMethods[] = {
    {"upper", mapped<to_upper>},
    {"lower", mapped<to_lower>},
    {"title", mapped<to_title>},
    {"capitalize", mapped<to_capitalized>},
    {"swapcase", mapped<to_swapped_case>},
    {"strip", stripped<true, true>},
    {"lstrip", stripped<true, false>},
    {"rstrip", stripped<false, true>},
    {"replace", str_replace},
    {"join", str_join},
    {"center", justified<Side::both>},
    {"ljust", justified<Side::left>},
    {"rjust", justified<Side::right>},
    {"zfill", str_zfill},
    {"removeprefix", str_removeprefix},
    {"removesuffix", str_removesuffix},
    {"format", str_format},
    {"format_map", str_format_map},
    {"isalpha", all_of<kAlpha>},
    {"isalnum", all_of<kAlpha | kDecimal | kDigit | kNumeric>},
    {"isdecimal", all_of<kDecimal>},
    {"isdigit", all_of<kDigit>},
    {"isnumeric", all_of<kNumeric>},
    {"isspace", all_of<kSpace>},
    {"isprintable", all_of<kPrintable>},
    {"islower", all_cased<kLower>},
    {"isupper", all_cased<kUpper>},
    {"istitle", str_istitle},
    {"isascii", str_isascii},
    {"isidentifier", str_isidentifier},
};

}  // namespace

std::span<const MethodEntry> string_methods() {
  return kMethods;
}

}  // namespace tandem::jinja
