// JSON in and out. See json.h.
#include "runtime/text/jinja/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/runtime.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

Value checked_string(Runtime& runtime, const std::string& bytes) {
  if (!is_valid_utf8(bytes)) throw Fault(FaultKind::value, "the conversation holds bytes that are not UTF-8");
  return runtime.string(bytes);
}

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style) : runtime_(runtime), style_(style) {}

  std::string take() { return std::move(out_); }

  void write(const Value& value, int level) {
    const Runtime::Deeper deeper(runtime_);
    runtime_.step();
    if (out_.size() > runtime_.max_output_bytes()) {
      throw Fault(FaultKind::limit, "the template makes a longer text than its limit allows");
    }
    switch (value.kind) {
      case Kind::none:
        out_ += "null";
        return;
      case Kind::boolean:
        out_ += value.boolean ? "true" : "false";
        return;
      case Kind::integer:
        out_ += std::to_string(value.integer);
        return;
      case Kind::real:
        out_ += real_text(value.real);
        return;
      case Kind::string:
        return write_string(value.view());
      case Kind::list:
      case Kind::tuple:
        return write_list(value.sequence().items, level);
      case Kind::dict:
        return write_dict(value.dict(), level);
      default:
        throw Fault(FaultKind::type,
                    fmt::format("Object of type {} is not JSON serializable", type_name(value)));
    }
  }

 private:
  static std::string real_text(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d < 0 ? "-Infinity" : "Infinity";
    return repr_real(d);
  }

  void new_line(int level) {
    if (!style_.pretty) return;
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += style_.indent;
    runtime_.scan(style_.indent.size() * static_cast<size_t>(level));
  }

  void write_list(const std::vector<Value>& items, int level) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write(items[i], level + 1);
    }
    new_line(level);
    out_ += ']';
  }

  std::string key_text(const Value& key) const {
    switch (key.kind) {
      case Kind::string:
        return std::string(key.view());
      case Kind::none:
        return "null";
      case Kind::boolean:
        return key.boolean ? "true" : "false";
      case Kind::integer:
        return std::to_string(key.integer);
      case Kind::real:
        return real_text(key.real);
      default:
        throw Fault(FaultKind::type,
                    fmt::format("keys must be str, int, float, bool or None, not {}", type_name(key)));
    }
  }

  void write_dict(const Dict& dict, int level) {
    if (dict.entries.empty()) {
      out_ += "{}";
      return;
    }
    std::vector<std::pair<Value, Value>> entries = dict.entries;
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [this](const auto& a, const auto& b) { return less(runtime_, a.first, b.first); });
    }
    out_ += '{';
    bool first = true;
    for (const auto& [key, value] : entries) {
      if (!first) out_ += style_.item_separator;
      first = false;
      new_line(level + 1);
      write_string(key_text(key));
      out_ += style_.key_separator;
      write(value, level + 1);
    }
    new_line(level);
    out_ += '}';
  }

  void write_string(std::string_view bytes) {
    runtime_.scan(bytes.size());
    out_ += '"';
    for (size_t i = 0; i < bytes.size();) {
      const size_t begin = i;
      const char32_t c = decode(bytes, i);
      switch (c) {
        case '"':
          out_ += "\\\"";
          break;
        case '\\':
          out_ += "\\\\";
          break;
        case '\n':
          out_ += "\\n";
          break;
        case '\r':
          out_ += "\\r";
          break;
        case '\t':
          out_ += "\\t";
          break;
        case '\f':
          out_ += "\\f";
          break;
        case '\b':
          out_ += "\\b";
          break;
        default:
          write_char(c, bytes.substr(begin, i - begin));
      }
    }
    out_ += '"';
  }

  void write_char(char32_t c, std::string_view bytes) {
    const auto code = static_cast<uint32_t>(c);
    if (code >= 0x20 && (code < 0x7f || !style_.ascii_only)) {
      out_ += bytes;
    } else if (code < 0x10000) {
      out_ += fmt::format("\\u{:04x}", code);
    } else {
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((code - 0x10000) >> 10),
                          0xdc00 + ((code - 0x10000) & 0x3ff));
    }
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

Value from_json(Runtime& runtime, const nlohmann::ordered_json& data) {
  const Runtime::Deeper deeper(runtime);
  switch (data.type()) {
    case nlohmann::ordered_json::value_t::null:
      return Value::none();
    case nlohmann::ordered_json::value_t::boolean:
      return Value::from_bool(data.get<bool>());
    case nlohmann::ordered_json::value_t::number_integer:
      return Value::from_int(data.get<int64_t>());
    case nlohmann::ordered_json::value_t::number_unsigned: {
      const auto u = data.get<uint64_t>();
      if (u > static_cast<uint64_t>(INT64_MAX)) {
        throw Fault(FaultKind::value, "the conversation holds an integer beyond 64 bits signed");
      }
      return Value::from_int(static_cast<int64_t>(u));
    }
    case nlohmann::ordered_json::value_t::number_float:
      return Value::from_real(data.get<double>());
    case nlohmann::ordered_json::value_t::string:
      return checked_string(runtime, data.get_ref<const std::string&>());
    case nlohmann::ordered_json::value_t::array: {
      std::vector<Value> items;
      items.reserve(data.size());
      for (const auto& item : data) items.push_back(from_json(runtime, item));
      return runtime.list(std::move(items));
    }
    case nlohmann::ordered_json::value_t::object: {
      auto* dict = runtime.heap().make<Dict>();
      for (const auto& [key, value] : data.items()) {
        dict->set(runtime, checked_string(runtime, key), from_json(runtime, value));
      }
      return Value::from_object(Kind::dict, dict);
    }
    default:
      throw Fault(FaultKind::value, "the conversation holds binary data");
  }
}

std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style) {
  JsonWriter writer(runtime, style);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace tandem::jinja
