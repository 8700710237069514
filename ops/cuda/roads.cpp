#include "ops/cuda/roads.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tandem::cuda {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int32_t kFewTokens = 4;     ///< a launch of GEMV
constexpr int32_t kFewUnpacked = 16;  ///< beside cuBLASLt, where there is no batch kernel
constexpr int32_t kFewFloats = 64;
constexpr int32_t kManyByWarpgroups = 192;  ///< in passes of 64, still faster than unpacking and cuBLASLt
constexpr double kWorthwhile = 0.95;        ///< of the built-in road's time

std::optional<TensorType> type_named(const std::string& name) {
  constexpr uint32_t kMostTypes = 64;
  for (uint32_t id = 0; id < kMostTypes; ++id) {
    const TensorTypeInfo* info = find_tensor_type(id);
    if (info != nullptr && info->computable && info->name == name) return info->type;
  }
  return std::nullopt;
}

bool is_within(const json& value, int64_t least, int64_t most) {
  return value.is_number_integer() && value >= least && value <= most;
}

/// Puts a table's entry into it; false where it makes no sense. Throws json::exception where something is
/// missing or of another kind.
bool read_entry(const json& entry, RoadTable& table) {
  constexpr int64_t kMost = int64_t{1} << 40;  // rows or columns
  RoadKey key;
  for (const json& part : entry.at("parts")) {
    const std::optional<TensorType> type = type_named(part.at("type").get<std::string>());
    if (!type || !is_within(part.at("rows"), 1, kMost)) return false;
    key.parts.push_back({*type, part.at("rows").get<int64_t>()});
  }
  if (!is_within(entry.at("cols"), 1, kMost) || !is_within(entry.at("gemv"), 0, Roads::kMostGemv) ||
      !is_within(entry.at("batch"), Roads::kLeastBatch, Roads::kMostBatch))
    return false;
  key.n_cols = entry.at("cols").get<int64_t>();
  key.wide = entry.at("wide").get<bool>();
  key.of_expert = entry.at("expert").get<bool>();
  table.set(key, {entry.at("gemv").get<int32_t>(), entry.at("batch").get<int32_t>()});
  return true;
}

bool holds_for(const json& document, const RoadOrigin& origin) {
  return document.at("device").get<std::string>() == origin.device &&
         document.at("driver").get<std::string>() == origin.driver &&
         document.at("tandem").get<std::string>() == origin.version && document.at("ranks") == origin.n_ranks;
}

}  // namespace

std::string RoadSet::text() const {
  constexpr const char* kNames[] = {"gemv", "batch", "unpacked"};
  std::string out;
  for (unsigned road = 0; road < std::size(kNames); ++road) {
    if ((bits_ >> road & 1U) != 0) out += (out.empty() ? "" : "+") + std::string(kNames[road]);
  }
  return out;
}

Roads built_in_roads(TensorType type, BatchCode batch) {
  if (type_info(type).block_elements == 1) return {kFewFloats, Roads::kLeastBatch};
  if (batch == BatchCode::none) return {kFewUnpacked, Roads::kLeastBatch};
  return {kFewTokens, batch == BatchCode::warpgroups ? kManyByWarpgroups : Roads::kLeastBatch};
}

std::optional<Roads> RoadTable::find(const RoadKey& key) const {
  const auto found = roads_.find(key);
  return found == roads_.end() ? std::nullopt : std::optional(found->second);
}

std::string RoadTable::text(const RoadOrigin& origin) const {
  ordered_json document = {{"device", origin.device},
                           {"driver", origin.driver},
                           {"tandem", origin.version},
                           {"ranks", origin.n_ranks},
                           {"roads", ordered_json::array()}};
  for (const auto& [key, roads] : roads_) {
    ordered_json parts = ordered_json::array();
    for (const RoadKey::Part& part : key.parts)
      parts.push_back({{"type", type_info(part.type).name}, {"rows", part.n_rows}});
    document["roads"].push_back({{"parts", parts},
                                 {"cols", key.n_cols},
                                 {"wide", key.wide},
                                 {"expert", key.of_expert},
                                 {"gemv", roads.gemv},
                                 {"batch", roads.batch}});
  }
  return document.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::optional<RoadTable> RoadTable::parse(const std::string& text, const RoadOrigin& origin,
                                          std::string& fault) {
  fault.clear();
  const json document = json::parse(text, nullptr, false);
  if (!document.is_object()) {
    fault = "not a JSON object";
    return std::nullopt;
  }
  try {
    if (!holds_for(document, origin)) return std::nullopt;
    RoadTable table;
    for (const json& entry : document.at("roads")) {
      if (read_entry(entry, table)) continue;
      fault = "an unknown format, or a number out of range";
      return std::nullopt;
    }
    return table;
  } catch (const json::exception& error) {
    fault = error.what();
    return std::nullopt;
  }
}

int32_t last_on_lower_road(int32_t least, int32_t built_in, std::span<const RoadTimes> times) {
  int32_t last = least;
  for (const RoadTimes& at : times) {
    const bool lower = at.n_tokens <= built_in ? at.upper_us >= kWorthwhile * at.lower_us
                                               : at.lower_us < kWorthwhile * at.upper_us;
    if (!lower) break;
    last = at.n_tokens;
  }
  return last;
}

}  // namespace tandem::cuda
