// The functions that every template finds: range, dict, namespace, cycler, joiner of jinja2, and
// raise_exception and strftime_now of transformers. See filters.h.
#include <fmt/format.h>

#include <array>
#include <ctime>

#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

constexpr int64_t kMaxRange = 100000;  // jinja2's sandbox has the same

Value make_range(Runtime& runtime, const CallArgs& args) {
  if (args.positional.empty()) throw Fault(FaultKind::type, "range expected at least 1 argument, got 0");
  const Arguments arguments("range", args, {"", "", ""}, 1);
  auto* range = runtime.heap().make<Range>();
  const bool one = !arguments.given(1);
  range->start = one ? 0 : arguments.integer(0, 0);
  range->stop = arguments.integer(one ? 0 : 1, 0);
  range->step = arguments.integer(2, 1);
  if (range->step == 0) throw Fault(FaultKind::value, "range() arg 3 must not be zero");
  const bool up = range->step > 0;
  const int64_t low = up ? range->start : range->stop;
  const int64_t high = up ? range->stop : range->start;
  // Unsigned: the distance of two 64-bit integers doesn't fit a signed one.
  const uint64_t distance = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  const uint64_t step = up ? static_cast<uint64_t>(range->step) : 0 - static_cast<uint64_t>(range->step);
  const uint64_t length = high > low ? (distance - 1) / step + 1 : 0;
  if (length > kMaxRange) {
    throw Fault(FaultKind::overflow,
                fmt::format("Range too big. The sandbox blocks ranges larger than {}.", kMaxRange));
  }
  range->length = static_cast<int64_t>(length);
  return Value::from_object(Kind::range, range);
}

/// dict(mapping or pairs, **more).
void fill_dict(Runtime& runtime, Dict& dict, const CallArgs& args, std::string_view callee) {
  if (args.positional.size() > 1) {
    throw Fault(FaultKind::type,
                fmt::format("{} expected at most 1 argument, got {}", callee, args.positional.size()));
  }
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (source.is(Kind::dict)) {
      for (const auto& [key, value] : source.dict().entries) dict.set(runtime, key, value);
    } else {
      Cursor cursor(runtime, source);
      Value pair;
      while (cursor.next(runtime, pair)) {
        const std::vector<Value> parts = collect(runtime, pair);
        if (parts.size() != 2) {
          throw Fault(
              FaultKind::value,
              fmt::format("dictionary update sequence element has length {}; 2 is required", parts.size()));
        }
        dict.set(runtime, parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : args.keywords) dict.set(runtime, runtime.string(name), value);
}

Value make_dict(Runtime& runtime, const CallArgs& args) {
  auto* dict = runtime.heap().make<Dict>();
  fill_dict(runtime, *dict, args, "dict");
  return Value::from_object(Kind::dict, dict);
}

Value make_namespace(Runtime& runtime, const CallArgs& args) {
  auto* name_space = runtime.heap().make<Namespace>();
  fill_dict(runtime, name_space->attributes, args, "dict");
  return Value::from_object(Kind::name_space, name_space);
}

Value make_cycler(Runtime& runtime, const CallArgs& args) {
  if (!args.keywords.empty()) throw Fault(FaultKind::type, "cycler() takes no keyword arguments");
  if (args.positional.empty()) throw Fault(FaultKind::runtime, "at least one item has to be provided");
  auto* cycler = runtime.heap().make<Cycler>();
  runtime.heap().charge(args.positional.size() * sizeof(Value));
  cycler->items = args.positional;
  return Value::from_object(Kind::cycler, cycler);
}

Value make_joiner(Runtime& runtime, const CallArgs& args) {
  const Arguments arguments("joiner", args, {"sep"});
  auto* joiner = runtime.heap().make<Joiner>();
  joiner->separator = arguments.given(0) ? arguments[0] : runtime.string(", ");
  return Value::from_object(Kind::joiner, joiner);
}

Value make_lipsum(Runtime& /*runtime*/, const CallArgs& /*args*/) {
  throw Fault(FaultKind::runtime, "the function 'lipsum' is not supported in chat templates");
}

Value raise_exception(Runtime& runtime, const CallArgs& args) {
  const Arguments arguments("raise_exception", args, {"message"}, 1);
  throw Fault(FaultKind::raised, to_str(runtime, arguments[0]));
}

Value strftime_now(Runtime& runtime, const CallArgs& args) {
  const Arguments arguments("strftime_now", args, {"format"}, 1);
  const std::string format = arguments.text(0).bytes;
  const std::tm now = runtime.now();
  if (format.size() > 4096) throw Fault(FaultKind::value, "the format of strftime_now is too long");
  // Each conversion is done alone: its length says whether it gave nothing or found no room.
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      out += format[i];
      continue;
    }
    std::string conversion = "%";
    while (++i < format.size()) {
      conversion += format[i];
      if (std::string_view("-_0^#EO123456789").find(format[i]) == std::string_view::npos) break;
    }
    const char last = conversion.back();
    if (last == 'z' || last == 'Z') continue;  // Python's datetime.now() knows no zone
    if (last == 'f') {
      out += "000000";
      continue;
    }
    std::array<char, 512> buffer{};
    out.append(buffer.data(), std::strftime(buffer.data(), buffer.size(), conversion.c_str(), &now));
  }
  if (!is_valid_utf8(out)) throw Fault(FaultKind::value, "strftime_now gave bytes that are not UTF-8");
  return runtime.string(std::move(out));
}

constexpr GlobalEntry kGlobals[] = {
    {"range", make_range},
    {"dict", make_dict},
    {"namespace", make_namespace},
    {"cycler", make_cycler},
    {"joiner", make_joiner},
    {"lipsum", make_lipsum},
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
};

}  // namespace

std::span<const GlobalEntry> global_functions() {
  return kGlobals;
}

}  // namespace tandem::jinja
