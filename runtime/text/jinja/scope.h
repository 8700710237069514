// Names -> slots, by jinja2's own rules of scope: which block a variable belongs to, what it is when the
// block begins, and which names a macro takes from outside. Called by the parser, after it.
#pragma once

#include "runtime/text/jinja/ast.h"

namespace tandem::jinja {

/// Fills in all Refs, ScopeLoads and slot counts. Throws Fault(syntax): unknown filters and tests outside of
/// conditions, a misused `loop` or `caller`.
void resolve_names(Template& program);

}  // namespace tandem::jinja
