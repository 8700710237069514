// Filters on sequences and dicts. Those that are generators in jinja2 are lazy here too. See filters.h.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>

#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

using Names = std::initializer_list<std::string_view>;

Value filter_length(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("length", args);
  return Value::from_int(length(runtime, input));
}

Value filter_list(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("list", args);
  return runtime.list(collect(runtime, input));
}

Value filter_first(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("first", args);
  Cursor cursor(runtime, input);
  Value item;
  return cursor.next(runtime, item) ? item : runtime.undefined("No first item, sequence was empty.");
}

Value filter_last(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("last", args);
  if (input.is(Kind::iterator) || !is_iterable(input)) {
    throw Fault(FaultKind::type, fmt::format("'{}' object is not reversible", type_name(input)));
  }
  if (length(runtime, input) == 0) return runtime.undefined("No last item, sequence was empty.");
  if (!input.is(Kind::dict) && !input.is(Kind::view)) return get_item(runtime, input, Value::from_int(-1));
  return collect(runtime, input).back();
}

Value filter_reverse(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("reverse", args);
  if (input.is(Kind::string)) return get_slice(runtime, input, {}, {}, Value::from_int(-1));
  if (!is_iterable(input)) throw Fault(FaultKind::type, "argument must be iterable");
  std::vector<Value> items = collect(runtime, input);
  std::reverse(items.begin(), items.end());
  const Value list = runtime.list(std::move(items));
  if (input.is(Kind::iterator)) return list;
  auto cursor = std::make_shared<Cursor>(runtime, list);
  return runtime.iterator("list_reverseiterator",
                          [cursor](Runtime& rt, Value& out) { return cursor->next(rt, out); });
}

/// Sorted by the keys, stable; `descending` keeps equal items in their order too, as Python does.
void sort_by_keys(Runtime& runtime, std::vector<std::pair<Value, Value>>& keyed, bool descending) {
  runtime.heap().charge(keyed.size() * sizeof(keyed[0]));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return descending ? less(runtime, b.first, a.first) : less(runtime, a.first, b.first);
  });
}

std::vector<Value> second_of(const std::vector<std::pair<Value, Value>>& keyed) {
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (const auto& pair : keyed) items.push_back(pair.second);
  return items;
}

/// "a,b.c" -> a key of several attributes.
std::vector<std::vector<Value>> attribute_paths(Runtime& runtime, const Value& attribute) {
  if (!attribute.is(Kind::string)) return {attribute_path(runtime, attribute)};
  std::vector<std::vector<Value>> paths;
  std::string_view rest = attribute.view();
  while (true) {
    const size_t comma = rest.find(',');
    paths.push_back(attribute_path(runtime, runtime.string(std::string(rest.substr(0, comma)))));
    if (comma == std::string_view::npos) return paths;
    rest.remove_prefix(comma + 1);
  }
}

Value filter_sort(Runtime& runtime, const Value& input, const CallArgs& args) {
  const Arguments arguments("sort", args, Names{"reverse", "case_sensitive", "attribute"});
  const bool case_sensitive = arguments.truth(1, false);
  const auto paths = attribute_paths(runtime, arguments[2]);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : collect(runtime, input)) {
    std::vector<Value> key;
    for (const auto& path : paths) {
      const Value part = follow_path(runtime, item, path);
      key.push_back(case_sensitive ? part : ignore_case(runtime, part));
    }
    keyed.emplace_back(runtime.list(std::move(key)), item);
  }
  sort_by_keys(runtime, keyed, arguments.truth(0, false));
  return runtime.list(second_of(keyed));
}

Value filter_dictsort(Runtime& runtime, const Value& input, const CallArgs& args) {
  const Arguments arguments("dictsort", args, Names{"case_sensitive", "by", "reverse"});
  const std::string by = arguments.given(1) ? to_str(runtime, arguments[1]) : "key";
  if (by != "key" && by != "value")
    throw Fault(FaultKind::value, "You can only sort by either \"key\" or \"value\"");
  if (input.is(Kind::undefined)) fail_undefined(input);
  if (!input.is(Kind::dict)) {
    throw Fault(FaultKind::attribute, fmt::format("'{}' object has no attribute 'items'", type_name(input)));
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : input.dict().entries) {
    const Value& sort_key = by == "key" ? key : value;
    keyed.emplace_back(arguments.truth(0, false) ? sort_key : ignore_case(runtime, sort_key),
                       runtime.tuple({key, value}));
  }
  sort_by_keys(runtime, keyed, arguments.truth(2, false));
  return runtime.list(second_of(keyed));
}

Value filter_unique(Runtime& runtime, const Value& input, const CallArgs& args) {
  const Arguments arguments("unique", args, Names{"case_sensitive", "attribute"});
  const bool case_sensitive = arguments.truth(0, false);
  const auto path = attribute_path(runtime, arguments[1]);
  auto* seen = runtime.heap().make<Dict>();
  auto cursor = std::make_shared<std::unique_ptr<Cursor>>();
  return runtime.iterator("generator", [=](Runtime& rt, Value& out) {
    if (*cursor == nullptr) *cursor = std::make_unique<Cursor>(rt, input);
    while ((*cursor)->next(rt, out)) {
      Value key = follow_path(rt, out, path);
      if (!case_sensitive) key = ignore_case(rt, key);
      if (seen->find(rt, key) != nullptr) continue;
      seen->set(rt, key, Value::none());
      return true;
    }
    return false;
  });
}

Value extreme(Runtime& runtime, const Value& input, const CallArgs& args, bool largest) {
  const Arguments arguments(largest ? "max" : "min", args, Names{"case_sensitive", "attribute"});
  const auto path = attribute_path(runtime, arguments[1]);
  Cursor cursor(runtime, input);
  Value item, best, best_key;
  while (cursor.next(runtime, item)) {
    Value key = follow_path(runtime, item, path);
    if (!arguments.truth(0, false)) key = ignore_case(runtime, key);
    const bool better =
        best_key.is(Kind::missing) || (largest ? less(runtime, best_key, key) : less(runtime, key, best_key));
    if (!better) continue;
    best = item;
    best_key = key;
  }
  return best_key.is(Kind::missing) ? runtime.undefined("No aggregated item, sequence was empty.") : best;
}

Value filter_min(Runtime& runtime, const Value& input, const CallArgs& args) {
  return extreme(runtime, input, args, false);
}

Value filter_max(Runtime& runtime, const Value& input, const CallArgs& args) {
  return extreme(runtime, input, args, true);
}

Value filter_sum(Runtime& runtime, const Value& input, const CallArgs& args) {
  const Arguments arguments("sum", args, Names{"attribute", "start"});
  const auto path = attribute_path(runtime, arguments[0]);
  Value total = arguments.get(1, Value::from_int(0));
  if (total.is(Kind::string))
    throw Fault(FaultKind::type, "sum() can't sum strings [use ''.join(seq) instead]");
  Cursor cursor(runtime, input);
  Value item;
  while (cursor.next(runtime, item)) {
    total = arithmetic(runtime, Operator::add, total, follow_path(runtime, item, path));
  }
  return total;
}

struct BatchState {
  std::unique_ptr<Cursor> cursor;
  std::vector<Value> row;  ///< what has been read of the next one
};

Value filter_batch(Runtime& runtime, const Value& input, const CallArgs& args) {
  const Arguments arguments("batch", args, Names{"linecount", "fill_with"}, 1);
  const Value count = arguments[0];
  const Value fill = arguments.get(1, Value::none());
  auto state = std::make_shared<BatchState>();
  return runtime.iterator("generator", [=](Runtime& rt, Value& out) {
    if (state->cursor == nullptr) state->cursor = std::make_unique<Cursor>(rt, input);
    std::vector<Value> row = std::move(state->row);
    state->row.clear();
    Value item;
    while (state->cursor->next(rt, item)) {
      // A full row is told by the item behind it: so one of none comes first where the count is 0.
      if (equal(rt, Value::from_int(static_cast<int64_t>(row.size())), count)) {
        state->row = {item};
        out = rt.list(std::move(row));
        return true;
      }
      row.push_back(item);
    }
    if (row.empty()) return false;
    if (!fill.is(Kind::none) && less(rt, Value::from_int(static_cast<int64_t>(row.size())), count)) {
      const Value missing =
          arithmetic(rt, Operator::subtract, count, Value::from_int(static_cast<int64_t>(row.size())));
      const Value filler = arithmetic(rt, Operator::multiply, rt.list({fill}), missing);
      row.insert(row.end(), filler.sequence().items.begin(), filler.sequence().items.end());
    }
    out = rt.list(std::move(row));
    return true;
  });
}

struct SliceState {
  std::vector<Value> items;
  int64_t n_slices = 0;
  int64_t next = 0;
  int64_t offset = 0;
  bool started = false;
};

Value filter_slice(Runtime& runtime, const Value& input, const CallArgs& args) {
  const Arguments arguments("slice", args, Names{"slices", "fill_with"}, 1);
  const Value slices = arguments[0];
  const Value fill = arguments.get(1, Value::none());
  auto state = std::make_shared<SliceState>();
  return runtime.iterator("generator", [=](Runtime& rt, Value& out) {
    if (!state->started) {
      state->started = true;
      state->items = collect(rt, input);
      if (!slices.is_int_like()) throw Fault(FaultKind::type, "slice() takes an integer");
      state->n_slices = slices.as_int();
      if (state->n_slices == 0) throw Fault(FaultKind::division, "integer division or modulo by zero");
    }
    if (state->next >= state->n_slices) return false;
    const auto length = static_cast<int64_t>(state->items.size());
    const int64_t per_slice = length / state->n_slices;
    const int64_t with_extra = length % state->n_slices;
    const int64_t number = state->next++;
    const int64_t start = state->offset + number * per_slice;
    if (number < with_extra) ++state->offset;
    const int64_t end = state->offset + (number + 1) * per_slice;
    std::vector<Value> part(state->items.begin() + start, state->items.begin() + end);
    if (!fill.is(Kind::none) && number >= with_extra) part.push_back(fill);
    out = rt.list(std::move(part));
    return true;
  });
}

Value filter_items(Runtime& runtime, const Value& input, const CallArgs& args) {
  refuse_arguments("items", args);
  auto index = std::make_shared<size_t>(0);
  return runtime.iterator("generator", [=](Runtime& rt, Value& out) {
    if (input.is(Kind::undefined)) return false;
    if (!input.is(Kind::dict)) throw Fault(FaultKind::type, "Can only get item pairs from a mapping.");
    const auto& entries = input.dict().entries;
    if (*index >= entries.size()) return false;
    const auto& [key, value] = entries[(*index)++];
    out = rt.tuple({key, value});
    return true;
  });
}

Value filter_groupby(Runtime& runtime, const Value& input, const CallArgs& args) {
  const Arguments arguments("groupby", args, Names{"attribute", "default", "case_sensitive"}, 1);
  const auto path = attribute_path(runtime, arguments[0]);
  const bool case_sensitive = arguments.truth(2, false);
  const bool has_default = arguments.given(1) && !arguments[1].is(Kind::none);
  const Value* fallback = has_default ? &arguments[1] : nullptr;
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : collect(runtime, input)) {
    const Value key = follow_path(runtime, item, path, fallback);
    keyed.emplace_back(case_sensitive ? key : ignore_case(runtime, key), item);
  }
  sort_by_keys(runtime, keyed, false);
  std::vector<Value> groups;
  for (size_t i = 0; i < keyed.size();) {
    const size_t begin = i;
    std::vector<Value> members;
    while (i < keyed.size() && equal(runtime, keyed[i].first, keyed[begin].first))
      members.push_back(keyed[i++].second);
    if (i == begin) members.push_back(keyed[i++].second);  // NaN equals nothing, not even itself
    const Value key = follow_path(runtime, members[0], path, fallback);
    const Value group = runtime.tuple({key, runtime.list(std::move(members))});
    group.as<Sequence>().grouped = true;
    groups.push_back(group);
  }
  return runtime.list(std::move(groups));
}

constexpr FilterEntry kFilters[] = {
    {"length", filter_length},   {"count", filter_length},  {"list", filter_list},
    {"first", filter_first},     {"last", filter_last},     {"reverse", filter_reverse},
    {"sort", filter_sort},       {"unique", filter_unique}, {"min", filter_min},
    {"max", filter_max},         {"sum", filter_sum},       {"batch", filter_batch},
    {"slice", filter_slice},     {"items", filter_items},   {"dictsort", filter_dictsort},
    {"groupby", filter_groupby},
};

}  // namespace

std::span<const FilterEntry> sequence_filters() {
  return kFilters;
}

}  // namespace tandem::jinja
