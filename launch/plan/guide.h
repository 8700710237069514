// The table of models that a guide for the box with two Tesla V100-SXM2-32GB gives, as data, and what is true
// of each row. Called by `tandem plan --guide`.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tandem {

/// Every row with its claim and the plan's numbers, the guide's limits, and its rules of thumb.
nlohmann::ordered_json guide_json();

/// From what guide_json() returned.
std::string guide_text(const nlohmann::ordered_json& guide);

}  // namespace tandem
