// Tokens -> syntax tree, with jinja2's grammar and its loop control and generation tags. Called by
// chat_template.cpp. Recursion is bounded; the tree's height too, so that walking it is.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "runtime/text/jinja/ast.h"

namespace tandem::jinja {

/// Parses and resolves names. Throws Fault(syntax) or Fault(limit) with a line.
std::unique_ptr<Template> parse(std::string_view source, int max_depth);

}  // namespace tandem::jinja
