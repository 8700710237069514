// `tandem doctor`'s document as text for people. Used by launch/commands/doctor.cpp.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "launch/doctor/verdict.h"

namespace tandem {

std::string doctor_text(const nlohmann::json& found, const std::vector<Finding>& findings);

}  // namespace tandem
