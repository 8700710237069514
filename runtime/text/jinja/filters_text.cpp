// Filters on strings. See filters.h; their meaning is jinja2's, |tojson's that of transformers.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/json.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

using Mapping = std::string (*)(std::string_view);

/// `function` over the input's text; Markup stays Markup.
Value mapped(Runtime& runtime, std::string_view name, const Value& input, const CallArgs& args,
             Mapping function) {
  refuse_arguments(name, args);
  const Value text = soft_string(runtime, input);
  runtime.scan(text.view().size() * 8);
  runtime.heap().charge(text.view().size() * 4);  // code points
  return runtime.string(function(text.view()), text.text().markup);
}

Value filter_upper(Runtime& runtime, const Value& input, const CallArgs& args) {
  return mapped(runtime, "upper", input, args, to_upper);
}

Value filter_lower(Runtime& runtime, const Value& input, const CallArgs& args) {
  return mapped(runtime, "lower", input, args, to_lower);
}

Value filter_capitalize(Runtime& runtime, const Value& input, const CallArgs& args) {
  return mapped(runtime, "capitalize", input, args, to_capitalized);
}

/// A word begins behind whitespace and ( { [ < -, not behind every non-letter as str.title has it.
std::string title_words(std::string_view text) {
  std::string out;
  std::string_view rest = text;
  const auto parts_words = [](char32_t c) {
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c);
  };
  while (!rest.empty()) {
    size_t end = 0;
    const bool is_gap = [&] {
      size_t first = 0;
      return parts_words(decode(rest, first));
    }();
    while (end < rest.size()) {
      size_t next = end;
      if (parts_words(decode(rest, next)) != is_gap) break;
      end = next;
    }
    const std::string_view item = rest.substr(0, end);
    const size_t first = byte_of_char(item, 1);
    out += to_upper(item.substr(0, first));
    out += to_lower(item.substr(first));
    rest.remove_prefix(end);
  }
  return out;
}

Value filter_title(Runtime& runtime, const Value& input, const CallArgs& args) {
  const Value plain = mapped(runtime, "title", input, args, title_words);
  return runtime.string(std::string(plain.view()));
}

Value filter_trim(Runtime& runtime, const Value& input, const CallArgs& args) {
  const Arguments arguments("trim", args, {"chars"});
  const Value text = soft_string(runtime, input);
  std::optional<std::string_view> chars;
  if (arguments.given(0) && !arguments[0].is(Kind::none)) chars = arguments.text(0).bytes;
  runtime.scan(text.view().size() * (chars ? chars->size() + 1 : 1));
  return runtime.string(std::string(strip(text.view(), chars, true, true)), text.text().markup);
}

Value filter_string(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("string", args);
  return soft_string(runtime, input);
}

Value filter_safe(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("safe", args);
  return runtime.string(to_str(runtime, input), true);
}

Value filter_escape(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("escape", args);
  if (input.is(Kind::string) && input.text().markup) return input;
  return runtime.string(escape_html(to_str(runtime, input)), true);
}

Value filter_forceescape(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("forceescape", args);
  return runtime.string(escape_html(to_str(runtime, input)), true);
}

Value filter_replace(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 3> kNames = {"old", "new", "count"};
  const Arguments arguments("replace", args, kNames, 2);
  CallArgs call;
  call.positional = {runtime.string(to_str(runtime, arguments[0])),
                     runtime.string(to_str(runtime, arguments[1]))};
  if (arguments.given(2) && !arguments[2].is(Kind::none)) call.positional.push_back(arguments[2]);
  const Value text = runtime.string(to_str(runtime, input));
  return runtime.call(get_attribute(runtime, text, "replace"), call);
}

Value filter_join(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 2> kNames = {"d", "attribute"};
  const Arguments arguments("join", args, kNames);
  const std::vector<Value> path = attribute_path(runtime, arguments[1]);
  const std::string separator = arguments.given(0) ? to_str(runtime, arguments[0]) : "";
  std::string out;
  Cursor cursor(runtime, input);
  Value item;
  bool first = true;
  while (cursor.next(runtime, item)) {
    if (!first) out += separator;
    first = false;
    append_str(runtime, out, follow_path(runtime, item, path));
    if (out.size() > runtime.max_output_bytes()) {
      throw Fault(FaultKind::limit, "the template makes a longer text than its limit allows");
    }
  }
  return runtime.string(std::move(out));
}

Value filter_indent(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 3> kNames = {"width", "first", "blank"};
  const Arguments arguments("indent", args, kNames);
  if (input.is(Kind::undefined)) fail_undefined(input);
  if (!input.is(Kind::string)) {
    throw Fault(FaultKind::type, fmt::format("indent() takes a string, not {}", type_name(input)));
  }
  std::string indentation(4, ' ');
  if (arguments.given(0)) {
    const Value width = arguments[0].is(Kind::string)
                            ? arguments[0]
                            : arithmetic(runtime, Operator::multiply, runtime.string(" "), arguments[0]);
    indentation = width.view();
  }
  const bool blank = arguments.truth(2, false);
  const std::string text = std::string(input.view()) + "\n";  // jinja2 does so: it changes the count of lines
  const auto lines = split_lines(text, false);
  runtime.heap().charge(text.size() + lines.size() * (indentation.size() + sizeof(std::string_view)));
  std::string out;
  if (arguments.truth(1, false)) out += indentation;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indentation;
    out += lines[i];
  }
  return runtime.string(std::move(out), input.text().markup);
}

Value filter_center(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 1> kNames = {"width"};
  const Arguments arguments("center", args, kNames);
  CallArgs call;
  call.positional = {arguments.get(0, Value::from_int(80))};
  return runtime.call(get_attribute(runtime, soft_string(runtime, input), "center"), call);
}

Value filter_format(Runtime& runtime, const Value& input, const CallArgs& args) {
  if (!args.positional.empty() && !args.keywords.empty()) {
    throw Fault(FaultKind::value, "can't handle positional and keyword arguments at the same time");
  }
  Value values = runtime.tuple(args.positional);
  if (!args.keywords.empty()) {
    auto* dict = runtime.heap().make<Dict>();
    for (const auto& [name, value] : args.keywords) dict->set(runtime, runtime.string(name), value);
    values = Value::from_object(Kind::dict, dict);
  }
  return format_percent(runtime, soft_string(runtime, input), values);
}

Value filter_truncate(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 4> kNames = {"length", "killwords", "end", "leeway"};
  const Arguments arguments("truncate", args, kNames);
  const int64_t length = arguments.integer(0, 255);
  const std::string end = arguments.given(2) ? arguments.text(2).bytes : "...";
  const auto end_chars = static_cast<int64_t>(count_chars(end));
  const int64_t leeway = arguments.given(3) && !arguments[3].is(Kind::none) ? arguments.integer(3, 0) : 5;
  if (length < end_chars)
    throw Fault(FaultKind::value, fmt::format("expected length >= {}, got {}", end_chars, length));
  if (leeway < 0) throw Fault(FaultKind::value, fmt::format("expected leeway >= 0, got {}", leeway));
  const int64_t have = jinja::length(runtime, input);
  if (have <= length || have - length <= leeway) return input;
  if (!input.is(Kind::string)) {
    throw Fault(FaultKind::type, fmt::format("truncate() takes a string, not {}", type_name(input)));
  }
  const std::string_view text = input.view();
  std::string_view kept = text.substr(0, byte_of_char(text, static_cast<size_t>(length - end_chars)));
  if (!arguments.truth(1, false)) kept = kept.substr(0, kept.rfind(' '));
  return runtime.string(std::string(kept) + end, input.text().markup);
}

Value filter_wordcount(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("wordcount", args);
  const Value text = soft_string(runtime, input);
  runtime.scan(text.view().size() * 8);
  int64_t n = 0;
  bool in_word = false;
  for (size_t i = 0; i < text.view().size();) {
    const char32_t c = decode(text.view(), i);
    const bool word = c == '_' || (classes_of(c) & (kAlpha | kDecimal | kDigit | kNumeric)) != 0;
    if (word && !in_word) ++n;
    in_word = word;
  }
  return Value::from_int(n);
}

std::string quote_url(std::string_view text, bool in_query) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !in_query);
    if (plain) {
      out += c;
    } else if (c == ' ' && in_query) {
      out += '+';
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

Value filter_urlencode(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("urlencode", args);
  if (input.is(Kind::string) || !is_iterable(input))
    return runtime.string(quote_url(to_str(runtime, input), false));
  Value pairs = input;
  if (input.is(Kind::dict)) pairs = runtime.call(get_attribute(runtime, input, "items"), {});
  std::string out;
  Cursor cursor(runtime, pairs);
  Value pair;
  while (cursor.next(runtime, pair)) {
    const std::vector<Value> parts = collect(runtime, pair);
    if (parts.size() != 2) throw Fault(FaultKind::value, "urlencode() takes pairs of a key and a value");
    if (!out.empty()) out += '&';
    out += fmt::format("{}={}", quote_url(to_str(runtime, parts[0]), true),
                       quote_url(to_str(runtime, parts[1]), true));
  }
  return runtime.string(std::move(out));
}

Value filter_tojson(Runtime& runtime, const Value& input, const CallArgs& args) {
  static constexpr std::array<std::string_view, 4> kNames = {"ensure_ascii", "indent", "separators",
                                                             "sort_keys"};
  const Arguments arguments("tojson", args, kNames);
  JsonStyle style;
  style.ascii_only = arguments.truth(0, false);
  style.sort_keys = arguments.truth(3, false);
  if (arguments.given(1) && !arguments[1].is(Kind::none)) {
    style.pretty = true;
    style.item_separator = ",";
    const Value indent = arguments[1].is(Kind::string)
                             ? arguments[1]
                             : arithmetic(runtime, Operator::multiply, runtime.string(" "), arguments[1]);
    style.indent = indent.view();
  }
  if (arguments.given(2) && !arguments[2].is(Kind::none)) {
    const std::vector<Value> separators = collect(runtime, arguments[2]);
    if (separators.size() != 2 || !separators[0].is(Kind::string) || !separators[1].is(Kind::string)) {
      throw Fault(FaultKind::value, "tojson() takes two strings as separators");
    }
    style.item_separator = separators[0].view();
    style.key_separator = separators[1].view();
  }
  return runtime.string(to_json(runtime, input, style));
}

constexpr FilterEntry kFilters[] = {
    {"upper", filter_upper},
    {"lower", filter_lower},
    {"capitalize", filter_capitalize},
    {"title", filter_title},
    {"trim", filter_trim},
    {"string", filter_string},
    {"safe", filter_safe},
    {"escape", filter_escape},
    {"e", filter_escape},
    {"forceescape", filter_forceescape},
    {"replace", filter_replace},
    {"join", filter_join},
    {"indent", filter_indent},
    {"center", filter_center},
    {"format", filter_format},
    {"truncate", filter_truncate},
    {"wordcount", filter_wordcount},
    {"urlencode", filter_urlencode},
    {"tojson", filter_tojson},
};

}  // namespace

std::span<const FilterEntry> text_filters() {
  return kFilters;
}

}  // namespace tandem::jinja
