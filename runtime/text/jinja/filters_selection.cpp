// |map, |select, |reject, |selectattr and |rejectattr: lazy, as in jinja2: nothing is looked at, nor any name
// of a filter or test found out, before an item is asked for. See filters.h.
#include <fmt/format.h>

#include <memory>

#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/operators.h"

namespace tandem::jinja {

namespace {

std::string name_of(const Value& value, std::string_view what) {
  if (!value.is(Kind::string)) throw Fault(FaultKind::runtime, fmt::format("No {} of that name.", what));
  return std::string(value.view());
}

struct MapState {
  bool started = false;
  std::unique_ptr<Cursor> cursor;  ///< null: nothing to do
  bool by_attribute = false;
  std::vector<Value> path;
  Value fallback;
  std::string filter;
  CallArgs args;
};

void start_map(Runtime& runtime, MapState& state, const Value& input, const CallArgs& args) {
  state.started = true;
  if (!truth(input)) return;
  const auto has_attribute = [&] {
    for (const auto& keyword : args.keywords) {
      if (keyword.first == "attribute") return true;
    }
    return false;
  };
  state.by_attribute = args.positional.empty() && has_attribute();
  if (state.by_attribute) {
    for (const auto& [name, value] : args.keywords) {
      if (name == "attribute") {
        state.path = attribute_path(runtime, value);
      } else if (name == "default") {
        if (!value.is(Kind::none)) state.fallback = value;
      } else {
        throw Fault(FaultKind::value, fmt::format("Unexpected keyword argument '{}'", name));
      }
    }
  } else {
    if (args.positional.empty()) throw Fault(FaultKind::value, "map requires a filter argument");
    state.args = args;
    state.args.positional.erase(state.args.positional.begin());
  }
  state.cursor = std::make_unique<Cursor>(runtime, input);
}

Value filter_map(Runtime& runtime, const Value& input, const CallArgs& args) {
  auto state = std::make_shared<MapState>();
  return runtime.iterator("generator", [=](Runtime& rt, Value& out) {
    if (!state->started) start_map(rt, *state, input, args);
    if (state->cursor == nullptr || !state->cursor->next(rt, out)) return false;
    if (state->by_attribute) {
      out = follow_path(rt, out, state->path, state->fallback.is(Kind::missing) ? nullptr : &state->fallback);
    } else {
      out = call_filter(rt, name_of(args.positional[0], "filter"), out, state->args);
    }
    return true;
  });
}

struct SelectState {
  bool started = false;
  std::unique_ptr<Cursor> cursor;
  std::vector<Value> path;
  Value test;  ///< missing: the item's own truth
  CallArgs args;
};

void start_select(Runtime& runtime, SelectState& state, const Value& input, const CallArgs& args,
                  bool by_attribute) {
  state.started = true;
  if (!truth(input)) return;
  state.args = args;
  auto& positional = state.args.positional;
  if (by_attribute) {
    if (positional.empty()) throw Fault(FaultKind::value, "Missing parameter for attribute name");
    state.path = attribute_path(runtime, positional[0]);
    positional.erase(positional.begin());
  }
  if (!positional.empty()) {
    state.test = positional[0];
    positional.erase(positional.begin());
  }
  state.cursor = std::make_unique<Cursor>(runtime, input);
}

Value selection(Runtime& runtime, const Value& input, const CallArgs& args, bool by_attribute, bool wanted) {
  auto state = std::make_shared<SelectState>();
  return runtime.iterator("generator", [=](Runtime& rt, Value& out) {
    if (!state->started) start_select(rt, *state, input, args, by_attribute);
    if (state->cursor == nullptr) return false;
    while (state->cursor->next(rt, out)) {
      const Value subject = follow_path(rt, out, state->path);
      const bool holds = state->test.is(Kind::missing)
                             ? truth(subject)
                             : call_test(rt, name_of(state->test, "test"), subject, state->args);
      if (holds == wanted) return true;
    }
    return false;
  });
}

Value filter_select(Runtime& runtime, const Value& input, const CallArgs& args) {
  return selection(runtime, input, args, false, true);
}

Value filter_reject(Runtime& runtime, const Value& input, const CallArgs& args) {
  return selection(runtime, input, args, false, false);
}

Value filter_selectattr(Runtime& runtime, const Value& input, const CallArgs& args) {
  return selection(runtime, input, args, true, true);
}

Value filter_rejectattr(Runtime& runtime, const Value& input, const CallArgs& args) {
  return selection(runtime, input, args, true, false);
}

constexpr FilterEntry kFilters[] = {
    {"map", filter_map},
    {"select", filter_select},
    {"reject", filter_reject},
    {"selectattr", filter_selectattr},
    {"rejectattr", filter_rejectattr},
};

}  // namespace

std::span<const FilterEntry> selection_filters() {
  return kFilters;
}

}  // namespace tandem::jinja
