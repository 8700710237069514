// The expressions, calls and the variable `loop`. See interpreter.h.
#include <fmt/format.h>

#include "runtime/text/jinja/interpreter.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

Value Interpreter::evaluate(const Expr& node) {
  step();
  switch (node.type) {
    case ExprType::constant:
      return node.constant;
    case ExprType::name:
      return evaluate_name(node);
    case ExprType::captured:
      return captured_;
    default:
      break;
  }
  const Deeper deeper(*this);
  try {
    return evaluate_operation(node);
  } catch (Fault& fault) {
    if (fault.line() == 0) fault.set_line(node.line);
    throw;
  }
}

Value Interpreter::evaluate_operation(const Expr& node) {
  const auto operand = [&](size_t i) { return evaluate(*node.operands[i]); };
  switch (node.type) {
    case ExprType::tuple:
    case ExprType::list:
      return evaluate_sequence(node);
    case ExprType::dict:
      return evaluate_dict(node);
    case ExprType::attribute:
      return get_attribute(*this, operand(0), node.name);
    case ExprType::item: {
      const Value object = operand(0);
      return get_item(*this, object, operand(1));
    }
    case ExprType::slice: {
      const Value object = operand(0);
      const auto bound = [&](size_t i) { return node.operands[i] == nullptr ? Value() : operand(i); };
      const Value start = bound(1);
      const Value stop = bound(2);
      return get_slice(*this, object, start, stop, bound(3));
    }
    case ExprType::call:
      return evaluate_call(node, nullptr);
    case ExprType::filter:
      return evaluate_filter(node);
    case ExprType::test:
      return evaluate_test(node);
    case ExprType::negative:
      return negative(operand(0));
    case ExprType::positive:
      return positive(operand(0));
    case ExprType::logical_not:
      return Value::from_bool(!truth(operand(0)));
    case ExprType::logical_and: {
      const Value left = operand(0);
      return truth(left) ? operand(1) : left;
    }
    case ExprType::logical_or: {
      const Value left = operand(0);
      return truth(left) ? left : operand(1);
    }
    case ExprType::binary: {
      const Value left = operand(0);
      return binary(*this, node.operators[0], left, operand(1));
    }
    case ExprType::compare:
      return evaluate_compare(node);
    case ExprType::concatenate:
      return evaluate_concatenation(node);
    case ExprType::conditional:
      return evaluate_conditional(node);
    default:
      return Value::none();  // handled by evaluate()
  }
}

Value Interpreter::evaluate_name(const Expr& node) {
  const Value value = slot(node.ref);
  return value.is(Kind::missing) ? undefined(fmt::format("'{}' is undefined", node.name)) : value;
}

Value Interpreter::evaluate_sequence(const Expr& node) {
  std::vector<Value> items;
  items.reserve(node.operands.size());
  for (const ExprPtr& operand : node.operands) items.push_back(evaluate(*operand));
  return heap().sequence(node.type == ExprType::list ? Kind::list : Kind::tuple, std::move(items));
}

Value Interpreter::evaluate_dict(const Expr& node) {
  auto* dict = heap().make<Dict>();
  for (size_t i = 0; i + 1 < node.operands.size(); i += 2) {
    const Value key = evaluate(*node.operands[i]);
    dict->set(*this, key, evaluate(*node.operands[i + 1]));
  }
  return Value::from_object(Kind::dict, dict);
}

Value Interpreter::evaluate_compare(const Expr& node) {
  Value left = evaluate(*node.operands[0]);
  for (size_t i = 0; i < node.operators.size(); ++i) {
    const Value right = evaluate(*node.operands[i + 1]);
    if (!binary(*this, node.operators[i], left, right).boolean) return Value::from_bool(false);
    left = right;
  }
  return Value::from_bool(true);
}

Value Interpreter::evaluate_concatenation(const Expr& node) {
  std::string out;
  for (const ExprPtr& operand : node.operands) {
    const Value value = evaluate(*operand);
    append_str(*this, out, value);
    if (out.size() > max_output_bytes()) {
      throw Fault(FaultKind::limit, "the template makes a longer text than its limit allows");
    }
  }
  return string(std::move(out));
}

Value Interpreter::evaluate_conditional(const Expr& node) {
  if (truth(evaluate(*node.operands[0]))) return evaluate(*node.operands[1]);
  if (node.operands[2] != nullptr) return evaluate(*node.operands[2]);
  return undefined("the inline if-expression evaluated to false and no else section was defined.");
}

Value Interpreter::evaluate_filter(const Expr& node) {
  const FilterFunction function = find_filter(node.name);
  const Value input = evaluate(*node.operands[0]);
  const CallArgs args = evaluate_arguments(node.arguments);
  if (function == nullptr)
    throw Fault(FaultKind::runtime, fmt::format("No filter named '{}' found.", node.name));
  return function(*this, input, args);
}

Value Interpreter::evaluate_test(const Expr& node) {
  const TestFunction function = find_test(node.name);
  const Value input = evaluate(*node.operands[0]);
  const CallArgs args = evaluate_arguments(node.arguments);
  if (function == nullptr)
    throw Fault(FaultKind::runtime, fmt::format("No test named '{}' found.", node.name));
  return Value::from_bool(function(*this, input, args));
}

CallArgs Interpreter::evaluate_arguments(const CallExprs& arguments) {
  CallArgs args;
  for (const ExprPtr& argument : arguments.positional) args.positional.push_back(evaluate(*argument));
  if (arguments.star != nullptr) {
    const std::vector<Value> more = collect(*this, evaluate(*arguments.star));
    args.positional.insert(args.positional.end(), more.begin(), more.end());
  }
  for (const auto& [name, expression] : arguments.keywords)
    args.keywords.emplace_back(name, evaluate(*expression));
  if (arguments.star_star == nullptr) return args;
  const Value mapping = evaluate(*arguments.star_star);
  if (!mapping.is(Kind::dict)) {
    throw Fault(FaultKind::type,
                fmt::format("argument after ** must be a mapping, not {}", type_name(mapping)));
  }
  for (const auto& [key, value] : mapping.dict().entries) {
    if (!key.is(Kind::string)) throw Fault(FaultKind::type, "keywords must be strings");
    for (const auto& keyword : args.keywords) {
      if (keyword.first == key.view()) {
        throw Fault(FaultKind::type,
                    fmt::format("got multiple values for keyword argument '{}'", key.view()));
      }
    }
    heap().charge(key.view().size());
    args.keywords.emplace_back(std::string(key.view()), value);
  }
  return args;
}

Value Interpreter::evaluate_call(const Expr& node, const Value* caller) {
  const Value callee = evaluate(*node.operands[0]);
  CallArgs args = evaluate_arguments(node.arguments);
  if (caller != nullptr) args.keywords.emplace_back("caller", *caller);
  return call(callee, args);
}

Value Interpreter::call(const Value& callee, const CallArgs& args) {
  switch (callee.kind) {
    case Kind::undefined:
      fail_undefined(callee);
    case Kind::macro:
      return call_macro(callee.as<Macro>(), args);
    case Kind::method: {
      const auto& method = callee.as<Method>();
      if (method.self.is(Kind::loop)) return call_loop_method(method.self.as<Loop>(), method.name, args);
      return method.function(*this, method.self, args);
    }
    case Kind::function:
      return callee.as<Function>().function(*this, args);
    case Kind::joiner: {
      refuse_arguments("joiner", args);
      auto& joiner = callee.as<Joiner>();
      if (std::exchange(joiner.used, true)) return joiner.separator;
      return string("");
    }
    case Kind::loop:
      throw Fault(FaultKind::type, "The loop must have the 'recursive' marker to be called recursively.");
    default:
      throw Fault(FaultKind::type, fmt::format("'{}' object is not callable", type_name(callee)));
  }
}

Value Interpreter::loop_attribute(Loop& loop, std::string_view name) {
  const auto peek = [&] {
    Value item;
    if (loop.n_ahead_used < loop.ahead.size()) return loop.ahead[loop.n_ahead_used];
    if (!next_item(loop, item)) return Value();
    loop.ahead = {item};
    loop.n_ahead_used = 0;
    return item;
  };
  if (name == "index") return Value::from_int(loop.index0 + 1);
  if (name == "index0") return Value::from_int(loop.index0);
  if (name == "first") return Value::from_bool(loop.index0 == 0);
  if (name == "last") return Value::from_bool(peek().is(Kind::missing));
  if (name == "length") return Value::from_int(loop_length(loop));
  if (name == "revindex") return Value::from_int(loop_length(loop) - loop.index0);
  if (name == "revindex0") return Value::from_int(loop_length(loop) - loop.index0 - 1);
  if (name == "depth") return Value::from_int(1);
  if (name == "depth0") return Value::from_int(0);
  if (name == "previtem") return loop.index0 == 0 ? undefined("there is no previous item") : loop.before;
  if (name == "nextitem") {
    const Value next = peek();
    return next.is(Kind::missing) ? undefined("there is no next item") : next;
  }
  if (name != "cycle" && name != "changed") return {};
  auto* method = heap().make<Method>();
  method->self = Value::from_object(Kind::loop, &loop);
  method->name = name == "cycle" ? "cycle" : "changed";
  return Value::from_object(Kind::method, method);
}

Value Interpreter::call_loop_method(Loop& loop, std::string_view name, const CallArgs& args) {
  if (!args.keywords.empty())
    throw Fault(FaultKind::type, fmt::format("{}() takes no keyword arguments", name));
  if (name == "cycle") {
    if (args.positional.empty()) throw Fault(FaultKind::type, "no items for cycling given");
    return args.positional[static_cast<size_t>(loop.index0) % args.positional.size()];
  }
  const Value now = tuple(args.positional);
  if (!loop.changed_value.is(Kind::missing) && equal(*this, loop.changed_value, now))
    return Value::from_bool(false);
  loop.changed_value = now;
  return Value::from_bool(true);
}

}  // namespace tandem::jinja
