// Results on stdout, the one way that they go there. Called by main.cpp, the option parser (--help) and every
// command, on rank 0 only.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tandem {

/// Writes and flushes a result, or a piece of one. Throws Error{io} where it can't: a result that is lost (a
/// full disk, a closed pipe) must not end with exit code 0.
void print_result(const std::string& text);

/// A result's JSON as text, indented; bytes that are no UTF-8, as a file's name may hold, become U+FFFD.
std::string json_text(const nlohmann::ordered_json& json);

}  // namespace tandem
