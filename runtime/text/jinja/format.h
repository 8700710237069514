// Python's two ways to format: "…" % values and "…".format(values). Called by arithmetic.cpp, methods and
// filters.
#pragma once

#include <string>
#include <string_view>

#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

/// `format` % `values`: a tuple gives several, a dict by name, all else is one.
Value format_percent(Runtime& runtime, const Value& format, const Value& values);

/// format.format(*args, **kwargs).
Value format_braces(Runtime& runtime, const Value& format, const CallArgs& args);

}  // namespace tandem::jinja
