// Python's str() and repr(), and HTML escaping as markupsafe does it. See operators.h.
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/runtime.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

void append_items(Runtime& runtime, std::string& out, const std::vector<Value>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(runtime, out, items[i]);
  }
}

void append_entries(Runtime& runtime, std::string& out, const Dict& dict) {
  out += '{';
  for (size_t i = 0; i < dict.entries.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(runtime, out, dict.entries[i].first);
    out += ": ";
    append_repr(runtime, out, dict.entries[i].second);
  }
  out += '}';
}

void append_view(Runtime& runtime, std::string& out, const View& view) {
  out += view.part == View::Part::keys     ? "dict_keys(["
         : view.part == View::Part::values ? "dict_values(["
                                           : "dict_items([";
  for (size_t i = 0; i < view.dict->entries.size(); ++i) {
    const auto& [key, value] = view.dict->entries[i];
    if (i > 0) out += ", ";
    if (view.part == View::Part::items) out += '(';
    if (view.part != View::Part::values) append_repr(runtime, out, key);
    if (view.part == View::Part::items) out += ", ";
    if (view.part != View::Part::keys) append_repr(runtime, out, value);
    if (view.part == View::Part::items) out += ')';
  }
  out += "])";
}

void append_object(Runtime& runtime, std::string& out, const Value& value) {
  switch (value.kind) {
    case Kind::range: {
      const auto& r = value.as<Range>();
      out += r.step == 1 ? fmt::format("range({}, {})", r.start, r.stop)
                         : fmt::format("range({}, {}, {})", r.start, r.stop, r.step);
      return;
    }
    case Kind::name_space:
      out += "<Namespace ";
      append_entries(runtime, out, value.as<Namespace>().attributes);
      out += '>';
      return;
    case Kind::macro: {
      const std::string& name = value.as<Macro>().definition->name;
      out += "<Macro ";
      if (name.empty()) {
        out += "anonymous";
      } else {
        append_repr_string(out, name);
      }
      out += '>';
      return;
    }
    case Kind::loop: {
      auto& loop = value.as<Loop>();
      out += fmt::format("<LoopContext {}/{}>", runtime.loop_index(loop), runtime.loop_length(loop));
      return;
    }
    case Kind::method:
      out += fmt::format("<built-in method {} of {} object>", value.as<Method>().name,
                         type_name(value.as<Method>().self));
      return;
    case Kind::function:
      out += fmt::format("<function {}>", value.as<Function>().name);
      return;
    // Python adds an address here; there is none to tell.
    default:
      out += fmt::format("<{} object>", type_name(value));
  }
}

}  // namespace

std::string repr_real(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // The shortest digits that read back as the same number, in Python's layout: an exponent below 1e-4 and
  // from 1e16.
  std::array<char, 64> buffer{};
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific).ptr;
  std::string_view text(buffer.data(), static_cast<size_t>(end - buffer.data()));
  std::string out;
  if (text.front() == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  std::string digits(text.substr(0, e));
  std::erase(digits, '.');
  int exponent = 0;
  std::string_view exponent_text = text.substr(e + 1);
  if (exponent_text.front() == '+') exponent_text.remove_prefix(1);
  std::from_chars(exponent_text.data(), exponent_text.data() + exponent_text.size(), exponent);
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (digits.size() > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) {
    const int n_zeros = -exponent - 1;
    return out + "0." + std::string(static_cast<size_t>(n_zeros), '0') + digits;
  }
  const size_t n_whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= n_whole) return out + digits + std::string(n_whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, n_whole) + "." + digits.substr(n_whole);
}

void append_repr_string(std::string& out, std::string_view bytes) {
  const bool has_single = bytes.find('\'') != std::string_view::npos;
  const bool has_double = bytes.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out += quote;
  for (size_t i = 0; i < bytes.size();) {
    const size_t begin = i;
    const char32_t c = decode(bytes, i);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if ((classes_of(c) & kPrintable) != 0) {
      out += bytes.substr(begin, i - begin);
    } else {
      const auto code = static_cast<uint32_t>(c);
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    }
  }
  out += quote;
}

void append_repr(Runtime& runtime, std::string& out, const Value& value) {
  const Runtime::Deeper deeper(runtime);
  runtime.step();
  if (out.size() > runtime.max_output_bytes()) {
    throw Fault(FaultKind::limit, "the template makes a longer text than its limit allows");
  }
  switch (value.kind) {
    case Kind::missing:
    case Kind::undefined:
      out += "Undefined";
      return;
    case Kind::none:
      out += "None";
      return;
    case Kind::boolean:
      out += value.boolean ? "True" : "False";
      return;
    case Kind::integer:
      out += std::to_string(value.integer);
      return;
    case Kind::real:
      out += repr_real(value.real);
      return;
    case Kind::string:
      runtime.scan(value.view().size());
      if (value.text().markup) out += "Markup(";
      append_repr_string(out, value.view());
      if (value.text().markup) out += ')';
      return;
    case Kind::list:
      out += '[';
      append_items(runtime, out, value.sequence().items);
      out += ']';
      return;
    case Kind::tuple:
      out += '(';
      append_items(runtime, out, value.sequence().items);
      out += value.sequence().items.size() == 1 ? ",)" : ")";
      return;
    case Kind::dict:
      return append_entries(runtime, out, value.dict());
    case Kind::view:
      return append_view(runtime, out, value.as<View>());
    default:
      return append_object(runtime, out, value);
  }
}

std::string to_repr(Runtime& runtime, const Value& value) {
  std::string out;
  append_repr(runtime, out, value);
  return out;
}

void append_str(Runtime& runtime, std::string& out, const Value& value) {
  switch (value.kind) {
    case Kind::missing:
    case Kind::undefined:
      return;
    case Kind::string:
      out += value.view();
      return;
    default:
      append_repr(runtime, out, value);
  }
}

std::string to_str(Runtime& runtime, const Value& value) {
  std::string out;
  append_str(runtime, out, value);
  return out;
}

Value soft_string(Runtime& runtime, const Value& value) {
  return value.is(Kind::string) ? value : runtime.string(to_str(runtime, value));
}

std::string escape_html(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace tandem::jinja
