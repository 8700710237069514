// What `tandem doctor` concludes from what it found: pure, from its JSON document to sentences. Used by
// launch/commands/doctor.cpp.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace tandem {

struct Finding {
  bool is_problem = false;  ///< else a note: how it is, and that it could be otherwise
  std::string text;
  std::string cure;  ///< may be empty
};

/// Problems first. Empty where all that was looked at is in order.
std::vector<Finding> conclude(const nlohmann::json& found);

}  // namespace tandem
