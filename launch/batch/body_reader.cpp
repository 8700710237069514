#include "launch/batch/body_reader.h"

#include <fmt/format.h>

namespace tandem {

using Json = nlohmann::ordered_json;

void fail_body(const std::string& param, const std::string& message, const std::string& code) {
  throw BatchFault{.status = 400, .code = code, .message = message, .param = param};
}

std::string kind_of(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "a truth value";
    case Json::value_t::string:
      return "a text";
    case Json::value_t::array:
      return "a list";
    case Json::value_t::object:
      return "an object";
    default:
      return "a number";
  }
}

const Json* BodyReader::find(const char* name) const {
  const auto found = body_.find(name);
  return found == body_.end() || found->is_null() ? nullptr : &*found;
}

double BodyReader::number(const char* name, double fallback, double low, double high) const {
  const Json* value = find(name);
  if (value == nullptr) return fallback;
  if (!value->is_number())
    fail_body(name, fmt::format("{}: {} where a number should be", name, kind_of(*value)), "invalid_type");
  const auto number = value->get<double>();
  if (!(number >= low && number <= high))
    fail_body(name, fmt::format("{}: {} is not within {} to {}", name, number, low, high));
  return number;
}

int64_t BodyReader::integer(const char* name, int64_t fallback, int64_t low, int64_t high) const {
  const Json* value = find(name);
  if (value == nullptr) return fallback;
  if (!value->is_number_integer()) {
    fail_body(name, fmt::format("{}: {} where a whole number should be", name, kind_of(*value)),
              "invalid_type");
  }
  // An unsigned number above int64's largest would come out negative.
  const bool is_huge = value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX};
  const auto number = value->get<int64_t>();
  if (is_huge || number < low || number > high)
    fail_body(name, fmt::format("{}: {} is not within {} to {}", name, value->dump(), low, high));
  return number;
}

bool BodyReader::boolean(const char* name, bool fallback) const {
  const Json* value = find(name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    fail_body(name, fmt::format("{}: {} where true or false should be", name, kind_of(*value)),
              "invalid_type");
  }
  return value->get<bool>();
}

std::string BodyReader::text(const char* name, const std::string& fallback) const {
  const Json* value = find(name);
  if (value == nullptr) return fallback;
  if (!value->is_string())
    fail_body(name, fmt::format("{}: {} where a text should be", name, kind_of(*value)), "invalid_type");
  return value->get<std::string>();
}

std::vector<std::string> BodyReader::texts(const char* name, const std::vector<std::string>& fallback,
                                           size_t most) const {
  const Json* value = find(name);
  if (value == nullptr) return fallback;
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) {
    fail_body(name, fmt::format("{}: {} where a text or a list of texts should be", name, kind_of(*value)),
              "invalid_type");
  }
  if (value->size() > most)
    fail_body(name, fmt::format("{}: {} texts, at most {} are allowed", name, value->size(), most));
  std::vector<std::string> texts;
  for (const Json& item : *value) {
    if (!item.is_string()) {
      fail_body(name, fmt::format("{}: the list holds {} where a text should be", name, kind_of(item)),
                "invalid_type");
    }
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

}  // namespace tandem
