// Python's str methods that search, count and split. See methods.h.
#include <fmt/format.h>

#include <algorithm>

#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

constexpr auto kNone = std::string_view::npos;

/// self[start:end] as find, count, startswith … take it.
struct Window {
  std::string_view text;
  int64_t first_char = 0;
  bool valid = true;  ///< start isn't behind the end
};

Window window_of(Runtime& runtime, const Value& self, const Arguments& arguments, size_t first_argument) {
  const auto n = static_cast<int64_t>(self.text().n_chars);
  const auto given = [&](size_t i) { return arguments.given(i) && !arguments[i].is(Kind::none); };
  int64_t start = given(first_argument) ? arguments.integer(first_argument, 0) : 0;
  int64_t end = given(first_argument + 1) ? arguments.integer(first_argument + 1, n) : n;
  if (start < 0) start = std::max<int64_t>(start + n, 0);
  if (end < 0) end = std::max<int64_t>(end + n, 0);
  end = std::min(end, n);
  Window window;
  window.valid = start <= end;
  if (!window.valid) return window;
  const std::string_view text = self.view();
  runtime.scan(text.size());
  window.first_char = start;
  window.text = text.substr(byte_of_char(text, static_cast<size_t>(start)));
  window.text = window.text.substr(0, byte_of_char(window.text, static_cast<size_t>(end - start)));
  return window;
}

/// The character index of the first (or last) match, -1 without one.
int64_t search(Runtime& runtime, const Value& self, const CallArgs& args, bool last) {
  const Arguments arguments("find", args, {"", "", ""}, 1);
  const std::string_view needle = arguments.text(0).bytes;
  const Window window = window_of(runtime, self, arguments, 1);
  if (!window.valid) return -1;
  const size_t at = last ? rfind_bytes(window.text, needle) : find_bytes(window.text, needle);
  if (at == kNone) return -1;
  return window.first_char + static_cast<int64_t>(count_chars(window.text.substr(0, at)));
}

template <bool Last>
Value str_find(Runtime& runtime, const Value& self, const CallArgs& args) {
  return Value::from_int(search(runtime, self, args, Last));
}

template <bool Last>
Value str_index(Runtime& runtime, const Value& self, const CallArgs& args) {
  const int64_t at = search(runtime, self, args, Last);
  if (at < 0) throw Fault(FaultKind::value, "substring not found");
  return Value::from_int(at);
}

Value str_count(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("count", args, {"", "", ""}, 1);
  const std::string_view needle = arguments.text(0).bytes;
  const Window window = window_of(runtime, self, arguments, 1);
  if (!window.valid) return Value::from_int(0);
  if (needle.empty()) return Value::from_int(static_cast<int64_t>(count_chars(window.text)) + 1);
  int64_t n = 0;
  for (size_t at = find_bytes(window.text, needle); at != kNone;
       at = find_bytes(window.text, needle, at + needle.size())) {
    runtime.step();
    ++n;
  }
  return Value::from_int(n);
}

template <bool AtEnd>
Value has_affix(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments(AtEnd ? "endswith" : "startswith", args, {"", "", ""}, 1);
  const Window window = window_of(runtime, self, arguments, 1);
  const auto matches = [&](const Value& affix) {
    if (!affix.is(Kind::string)) {
      throw Fault(FaultKind::type, fmt::format("{} first arg must be str or a tuple of str, not {}",
                                               AtEnd ? "endswith" : "startswith", type_name(affix)));
    }
    if (!window.valid) return false;
    return AtEnd ? window.text.ends_with(affix.view()) : window.text.starts_with(affix.view());
  };
  if (!arguments[0].is(Kind::tuple)) return Value::from_bool(matches(arguments[0]));
  const auto& items = arguments[0].sequence().items;
  return Value::from_bool(std::any_of(items.begin(), items.end(), matches));
}

class Splitter {
 public:
  Splitter(Runtime& runtime, const Value& self) : runtime_(runtime), self_(self) {}

  Value take(bool reversed) {
    if (reversed) std::reverse(parts_.begin(), parts_.end());
    return runtime_.list(std::move(parts_));
  }

  void by_separator(std::string_view separator, int64_t limit) {
    std::string_view rest = self_.view();
    for (; limit != 0; --limit) {
      const size_t at = find_bytes(rest, separator);
      if (at == kNone) break;
      add(rest.substr(0, at));
      rest.remove_prefix(at + separator.size());
    }
    add(rest);
  }

  void by_separator_from_right(std::string_view separator, int64_t limit) {
    // Matches are looked for from the right, so that overlapping ones are cut as Python cuts them.
    const std::string_view text = self_.view();
    const std::string reversed(text.rbegin(), text.rend());
    const std::string needle(separator.rbegin(), separator.rend());
    size_t end = text.size();
    for (; limit != 0; --limit) {
      const size_t at = find_bytes(reversed, needle, text.size() - end);
      if (at == kNone) break;
      const size_t begin_of_match = text.size() - at - separator.size();
      add(text.substr(begin_of_match + separator.size(), end - begin_of_match - separator.size()));
      end = begin_of_match;
    }
    add(text.substr(0, end));
  }

  void by_whitespace(int64_t limit) {
    std::string_view rest = strip(self_.view(), std::nullopt, true, false);
    while (!rest.empty()) {
      size_t end = 0;
      if (limit == 0) return add(rest);
      while (end < rest.size()) {
        size_t next = end;
        if (is_space(decode(rest, next))) break;
        end = next;
      }
      add(rest.substr(0, end));
      rest = strip(rest.substr(end), std::nullopt, true, false);
      --limit;
    }
  }

  void by_whitespace_from_right(int64_t limit) {
    std::string_view rest = strip(self_.view(), std::nullopt, false, true);
    while (!rest.empty()) {
      if (limit == 0) return add(rest);
      size_t begin = rest.size();
      while (begin > 0) {
        size_t previous = begin - 1;
        while (previous > 0 && (static_cast<unsigned char>(rest[previous]) & 0xc0) == 0x80) --previous;
        size_t pos = previous;
        if (is_space(decode(rest, pos))) break;
        begin = previous;
      }
      add(rest.substr(begin));
      rest = strip(rest.substr(0, begin), std::nullopt, false, true);
      --limit;
    }
  }

 private:
  void add(std::string_view part) {
    runtime_.step();
    parts_.push_back(runtime_.string(std::string(part), self_.text().markup));
  }

  Runtime& runtime_;
  const Value& self_;
  std::vector<Value> parts_;
};

template <bool FromRight>
Value str_split(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("split", args, {"sep", "maxsplit"});
  const int64_t limit = arguments.integer(1, -1);
  runtime.scan(self.view().size() * 2);
  Splitter splitter(runtime, self);
  if (!arguments.given(0) || arguments[0].is(Kind::none)) {
    if (FromRight) {
      splitter.by_whitespace_from_right(limit);
    } else {
      splitter.by_whitespace(limit);
    }
    return splitter.take(FromRight);
  }
  const std::string_view separator = arguments.text(0).bytes;
  if (separator.empty()) throw Fault(FaultKind::value, "empty separator");
  if (FromRight) {
    splitter.by_separator_from_right(separator, limit);
  } else {
    splitter.by_separator(separator, limit);
  }
  return splitter.take(FromRight);
}

Value str_splitlines(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("splitlines", args, {"keepends"});
  runtime.scan(self.view().size() * 4);
  std::vector<Value> lines;
  for (const std::string_view line : split_lines(self.view(), arguments.truth(0, false))) {
    lines.push_back(runtime.string(std::string(line), self.text().markup));
  }
  return runtime.list(std::move(lines));
}

template <bool FromRight>
Value str_partition(Runtime& runtime, const Value& self, const CallArgs& args) {
  const Arguments arguments("partition", args, {""}, 1);
  const std::string_view separator = arguments.text(0).bytes;
  if (separator.empty()) throw Fault(FaultKind::value, "empty separator");
  const std::string_view text = self.view();
  runtime.scan(text.size());
  const bool markup = self.text().markup;
  const auto part = [&](std::string_view bytes) { return runtime.string(std::string(bytes), markup); };
  const size_t at = FromRight ? rfind_bytes(text, separator) : find_bytes(text, separator);
  if (at != kNone) {
    return runtime.tuple(
        {part(text.substr(0, at)), part(separator), part(text.substr(at + separator.size()))});
  }
  if (FromRight) return runtime.tuple({part(""), part(""), part(text)});
  return runtime.tuple({part(text), part(""), part("")});
}

constexpr MethodEntry kMethods[] = {
    {"find", str_find<false>},
    {"rfind", str_find<true>},
    {"index", str_index<false>},
    {"rindex", str_index<true>},
    {"count", str_count},
    {"startswith", has_affix<false>},
    {"endswith", has_affix<true>},
    {"split", str_split<false>},
    {"rsplit", str_split<true>},
    {"splitlines", str_splitlines},
    {"partition", str_partition<false>},
    {"rpartition", str_partition<true>},
};

}  // namespace

std::span<const MethodEntry> string_search_methods() {
  return kMethods;
}

}  // namespace tandem::jinja
