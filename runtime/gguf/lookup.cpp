// The typed look-ups of GgufFile.
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "ops/core/error.h"
#include "runtime/gguf/gguf.h"
#include "runtime/gguf/printable.h"

namespace tandem {
namespace {

/// The integer, where `number` is one and fits int64.
template <class T>
std::optional<int64_t> to_int64(const T& number) {
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    if (std::in_range<int64_t>(number)) return static_cast<int64_t>(number);
  }
  return std::nullopt;
}

bool is_integer(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::u16:
    case GgufType::i16:
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::u64:
    case GgufType::i64:
      return true;
    default:
      return false;
  }
}

std::string outside(std::string_view value, int64_t min, int64_t max) {
  if (max == std::numeric_limits<int64_t>::max())
    return fmt::format("is {}, must be at least {}", value, min);
  return fmt::format("is {}, must be in {} … {}", value, min, max);
}

}  // namespace

std::string_view type_name(GgufType type) {
  switch (type) {
    case GgufType::u8:
      return "u8";
    case GgufType::i8:
      return "i8";
    case GgufType::u16:
      return "u16";
    case GgufType::i16:
      return "i16";
    case GgufType::u32:
      return "u32";
    case GgufType::i32:
      return "i32";
    case GgufType::f32:
      return "f32";
    case GgufType::boolean:
      return "bool";
    case GgufType::string:
      return "string";
    case GgufType::array:
      return "array";
    case GgufType::u64:
      return "u64";
    case GgufType::i64:
      return "i64";
    case GgufType::f64:
      return "f64";
  }
  return "unknown";
}

std::string type_name(const GgufValue& value) {
  const GgufArray* array = std::get_if<GgufArray>(&value.value);
  if (array == nullptr) return std::string(type_name(value.type));
  return fmt::format("array of {}", type_name(array->element_type));
}

size_t GgufArray::size() const {
  return std::visit([](const auto& elements) { return elements.size(); }, values);
}

void GgufFile::fail_key(std::string_view key, std::string_view what) const {
  throw Error(ExitCode::bad_data,
              fmt::format("{}: key {}: {}", printable(path(), kPathCharacters), in_quotes(key), what));
}

const GgufValue* GgufFile::find_value(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

const GgufValue& GgufFile::value(std::string_view key) const {
  const GgufValue* found = find_value(key);
  if (found == nullptr) fail_key(key, "is missing");
  return *found;
}

int64_t GgufFile::get_int(std::string_view key, int64_t min, int64_t max) const {
  const GgufValue& found = value(key);
  if (!is_integer(found.type)) fail_key(key, fmt::format("is {}, must be an integer", type_name(found)));
  const uint64_t* big = std::get_if<uint64_t>(&found.value);
  const std::optional<int64_t> number = big ? to_int64(*big) : std::get<int64_t>(found.value);
  if (!number) fail_key(key, fmt::format("is {}, must be at most {}", *big, max));
  if (*number < min || *number > max) fail_key(key, outside(fmt::format("{}", *number), min, max));
  return *number;
}

int64_t GgufFile::get_int_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) const {
  return has(key) ? get_int(key, min, max) : fallback;
}

double GgufFile::get_float(std::string_view key) const {
  const GgufValue& found = value(key);
  double number = 0;
  if (const double* real = std::get_if<double>(&found.value)) {
    number = *real;
  } else if (const uint64_t* natural = std::get_if<uint64_t>(&found.value)) {
    number = static_cast<double>(*natural);
  } else if (const int64_t* integer = std::get_if<int64_t>(&found.value)) {
    number = static_cast<double>(*integer);
  } else {
    fail_key(key, fmt::format("is {}, must be a number", type_name(found)));
  }
  if (!std::isfinite(number)) fail_key(key, fmt::format("is {}, must be finite", number));
  return number;
}

double GgufFile::get_float_or(std::string_view key, double fallback) const {
  return has(key) ? get_float(key) : fallback;
}

bool GgufFile::get_bool_or(std::string_view key, bool fallback) const {
  const GgufValue* found = find_value(key);
  if (found == nullptr) return fallback;
  const bool* truth = std::get_if<bool>(&found->value);
  if (truth == nullptr) fail_key(key, fmt::format("is {}, must be a bool", type_name(*found)));
  return *truth;
}

const std::string& GgufFile::get_string(std::string_view key) const {
  const GgufValue& found = value(key);
  const std::string* text = std::get_if<std::string>(&found.value);
  if (text == nullptr) fail_key(key, fmt::format("is {}, must be a string", type_name(found)));
  return *text;
}

std::string GgufFile::get_string_or(std::string_view key, std::string_view fallback) const {
  return has(key) ? get_string(key) : std::string(fallback);
}

template <class T>
const std::vector<T>* GgufFile::find_array(std::string_view key, GgufType element_type) const {
  const GgufValue* found = find_value(key);
  if (found == nullptr) return nullptr;
  const GgufArray* array = std::get_if<GgufArray>(&found->value);
  if (array == nullptr || array->element_type != element_type) {
    fail_key(key, fmt::format("is {}, must be an array of {}", type_name(*found), type_name(element_type)));
  }
  return &std::get<std::vector<T>>(array->values);
}

const std::vector<std::string>* GgufFile::find_strings(std::string_view key) const {
  return find_array<std::string>(key, GgufType::string);
}

const std::vector<float>* GgufFile::find_floats(std::string_view key) const {
  return find_array<float>(key, GgufType::f32);
}

const std::vector<int32_t>* GgufFile::find_ints(std::string_view key) const {
  return find_array<int32_t>(key, GgufType::i32);
}

std::optional<std::vector<int64_t>> GgufFile::find_integers(std::string_view key, int64_t min,
                                                            int64_t max) const {
  const GgufValue* found = find_value(key);
  const GgufArray* array = found == nullptr ? nullptr : std::get_if<GgufArray>(&found->value);
  if (array == nullptr) return std::nullopt;
  if (!is_integer(array->element_type) && array->element_type != GgufType::boolean) {
    fail_key(key, fmt::format("is {}, must be an array of integers", type_name(*found)));
  }
  std::vector<int64_t> integers;
  const auto copy = [&](const auto& elements) {
    integers.reserve(elements.size());
    for (const auto& element : elements) {
      const std::optional<int64_t> number = to_int64(element);
      if (number && *number >= min && *number <= max) {
        integers.push_back(*number);
      } else if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(element)>>) {
        fail_key(key, fmt::format("element {} {}", integers.size(),
                                  outside(fmt::format("{}", element), min, max)));
      }
    }
  };
  std::visit(copy, array->values);
  return integers;
}

}  // namespace tandem
