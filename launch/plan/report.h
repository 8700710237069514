// A memory plan as a table for people and as JSON for programs. Called by launch/commands/plan.cpp.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "runtime/model/memory_plan.h"

namespace tandem {

/// A plan, and the memory that it is held against.
struct PlanQuestion {
  const GgufFile& file;
  const ModelConfig& config;
  const MemoryPlan& plan;
  PlanRequest request;
  std::optional<int64_t> memory_bytes;  ///< of one rank; without it nothing can fit or not
  double mem_fraction = 0.95;           ///< of that which may be used
};

/// All numbers in bytes; "fits", "largest_context" and "largest_sequences" are null without memory_bytes.
nlohmann::ordered_json plan_json(const PlanQuestion& question);

/// From what plan_json() returned.
std::string plan_text(const nlohmann::ordered_json& plan);

}  // namespace tandem
